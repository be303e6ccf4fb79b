"""The report on a page of GitHub Actions: Markdown, appended to the file that ``GITHUB_STEP_SUMMARY`` names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from attar.pipeline.core.errors import StageError
from attar.proof.report.formats.markdown import escape, markdown
from attar.proof.report.record import Record
from attar.proof.report.target import targets

VARIABLE = "GITHUB_STEP_SUMMARY"
MOST = 1024 * 1024
"""Bytes that GitHub takes for the summary of one step; of a longer one it shows nothing."""


def append(records: Sequence[Record], recipe_name: str, environment: Mapping[str, str]) -> None:
    """Append the report to the step's summary, whole; nothing happens where no such file is named.

    A report that does not fit beside what stands there is named, with its verdicts, and said to be left out. Raises StageError
    when not even that fits, and when the file cannot be written, which is then as it was.
    """
    file = environment.get(VARIABLE)
    if not file:
        return
    path = Path(file)
    try:
        before = path.stat().st_size if path.exists() else 0
        write(path, before, fitting(path, records, recipe_name, before))
    except OSError as error:
        raise StageError(
            f"cannot append to the summary {file}, which {VARIABLE} names: {error.strerror}; "
            f"make it a file that can be written, or unset {VARIABLE}"
        ) from error


def fitting(path: Path, records: Sequence[Record], recipe_name: str, before: int) -> bytes:
    """The report, or the note that it does not fit, with the empty line that parts it from what stands there."""
    gap = b"\n\n" if before else b""
    for text in (markdown(records, recipe_name), left_out(records, recipe_name)):
        made = gap + text.encode()
        if before + len(made) <= MOST:
            return made
    raise StageError(
        f"the summary {path} holds {before:,} bytes and has no room for {recipe_name}: GitHub shows at most {MOST:,} of a step; "
        "run attar in a step of its own"
    )


def left_out(records: Sequence[Record], recipe_name: str) -> str:
    verdicts = (
        ", ".join(f"{target.name} {target.verdict}" for target in targets(records))
        or "no target was reached"
    )
    why = f"The rest is left out, for GitHub shows at most {MOST:,} bytes of a step; `attar report` writes it whole."
    return f"# {escape(recipe_name)}\n\n{escape(verdicts)}. {why}\n"


def write(path: Path, before: int, text: bytes) -> None:
    """All of it or nothing: what a full disk took of it is taken away again."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        while text:
            text = text[os.write(handle, text) :]
    except OSError:
        os.ftruncate(handle, before)
        raise
    finally:
        os.close(handle)
