"""Files: the report of a run in every format, written to a folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attar.proof.report.record import Record

FILES = ("report.html", "report.md", "report.json", "junit.xml")


def write_report(records: Sequence[Record], folder: Path, recipe_name: str) -> Path:
    """Write the ``FILES`` and return the first path.

    Each file is replaced in one step, so a reader never sees half of one. Raises OSError if the
    folder cannot be written.
    """
    from attar.proof.report.data import build_data
    from attar.proof.report.formats.html import render_html
    from attar.proof.report.formats.junit import render_junit
    from attar.proof.report.formats.markdown import render_markdown

    folder.mkdir(parents=True, exist_ok=True)
    replace_file(
        folder / "report.json",
        json.dumps(build_data(records), indent=2, allow_nan=False, ensure_ascii=False) + "\n",
    )
    replace_file(folder / "junit.xml", render_junit(records, recipe_name))
    replace_file(folder / "report.md", render_markdown(records, recipe_name))
    replace_file(folder / "report.html", render_html(records, recipe_name))
    return folder / "report.html"


def replace_file(path: Path, text: str) -> None:
    """Write a new file, then rename it to ``path``. A file name that is not UTF-8 keeps its
    bytes."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)  # after the rename there is nothing left to remove
