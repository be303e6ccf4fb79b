"""Kept: files that outlive the artifact they were made for, so that a stage whose settings grow makes only what is new.

A file is named by what decides it and by its own bytes, ``NAME.SHA256``: whoever knows the first finds it, and a file that is
no longer what was written is not found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from attar.pipeline.store import KEPT, digest_of

DIGEST = "?" * 64  # how a name ends; others are unfinished


class Kept:
    """Files in one folder. Several processes may share it: a file appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def any(self, start: str) -> bool:
        """Whether a file's name starts like this."""
        return next(self.folder.glob(f"{start}*.{DIGEST}"), None) is not None

    def find(self, name: str) -> Path | None:
        """The file of this name, every byte checked; None when it was never made. One that is damaged is deleted."""
        for path in self.folder.glob(f"{name}.{DIGEST}"):
            if intact(path):
                return path
            path.unlink(missing_ok=True)  # another process of the same team may have found it too
        return None

    def add(self, name: str, write: Callable[[Path], None]) -> Path:
        """``write`` fills a new file, which then gets its name; on disk before it has it."""
        partial = self.folder / f"{name}.{os.getpid()}.partial"
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        path = self.folder / f"{name}.{digest_of(partial)}"
        partial.replace(path)
        return path


def intact(path: Path) -> bool:
    return path.is_file() and digest_of(path) == path.name.rpartition(".")[2]


def kept(out: Path) -> Kept:
    """Of the stage that fills ``out``: shared by all stages whose deciders differ only in what the stage says ``grows``."""
    note = out.parent / KEPT
    return Kept(Path(note.read_text(encoding="utf-8")) if note.exists() else out.parent / "kept")
