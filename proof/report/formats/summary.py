"""The report for GitHub Actions: Markdown in the file that ``GITHUB_STEP_SUMMARY`` names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from attar.pipeline.core.errors import StageError
from attar.proof.report.formats.markdown import escape_markdown, render_markdown
from attar.proof.report.record import Record
from attar.proof.report.target import group_targets

VARIABLE = "GITHUB_STEP_SUMMARY"
MAX_SUMMARY_BYTES = 1024 * 1024
"""Bytes that GitHub takes for the summary of one step; of a longer one it shows nothing."""


def append_summary(
    records: Sequence[Record], recipe_name: str, environment: Mapping[str, str]
) -> None:
    """Append the whole report to the step's summary, if the variable names such a file.

    If the report does not fit, its name and verdicts are appended, and that the rest is left out.
    Raises StageError if not even that fits, or if the file cannot be written; then the file is
    unchanged.
    """
    file = environment.get(VARIABLE)
    if not file:
        return
    path = Path(file)
    try:
        before = path.stat().st_size if path.exists() else 0
        append_whole(path, before, fit_summary(path, records, recipe_name, before))
    except OSError as error:
        raise StageError(
            f"cannot append to the summary {file}, which {VARIABLE} names: {error.strerror}; "
            f"make it a file that can be written, or unset {VARIABLE}"
        ) from error


def fit_summary(path: Path, records: Sequence[Record], recipe_name: str, before: int) -> bytes:
    """Return the report, or a note that it does not fit, after an empty line if the file has
    text."""
    gap = b"\n\n" if before else b""
    for text in (render_markdown(records, recipe_name), name_left_out(records, recipe_name)):
        made = gap + text.encode()
        if before + len(made) <= MAX_SUMMARY_BYTES:
            return made
    raise StageError(
        f"the summary {path} holds {before:,} bytes and has no room for {recipe_name}: GitHub "
        f"shows at most {MAX_SUMMARY_BYTES:,} of a step; run attar in a step of its own"
    )


def name_left_out(records: Sequence[Record], recipe_name: str) -> str:
    verdicts = (
        ", ".join(f"{target.name} {target.verdict}" for target in group_targets(records))
        or "no target was reached"
    )
    why = (
        f"The rest is left out, for GitHub shows at most {MAX_SUMMARY_BYTES:,} bytes of a step; "
        "`attar report` writes it whole."
    )
    return f"# {escape_markdown(recipe_name)}\n\n{escape_markdown(verdicts)}. {why}\n"


def append_whole(path: Path, before: int, text: bytes) -> None:
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
