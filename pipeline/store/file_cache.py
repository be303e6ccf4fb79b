"""A cache of files that outlive the artifact they were made for.

A stage that is ``incremental``, such as `Label`, builds its result from files. A later run with
more views finds the files of the earlier views here and makes only the new ones. A file is named
``KEY.SHA256``: the key identifies its content, the digest proves that the content is unchanged.

An empty file ``plan-PLAN.KEY.SHA256`` says which file a plan led to, so that the same plan need not
be carried out again to find it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from attar.pipeline.core.disk import compute_digest
from attar.pipeline.store.store import KEPT

DIGEST_PATTERN = "?" * 64
"""The end of a finished file's name."""
PLAN = "plan-"
"""The beginning of a note's name."""


class FileCache:
    """Files in one folder. Several processes may share it: a file appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has_prefix(self, start: str) -> bool:
        """Whether the key of a file begins with this."""
        return next(self.folder.glob(f"{start}*.{DIGEST_PATTERN}"), None) is not None

    def find(self, name: str) -> Path | None:
        """Return the file of a key, or None. A file that fails its digest is deleted."""
        for path in self.folder.glob(f"{name}.{DIGEST_PATTERN}"):
            if is_intact(path):
                return path
            path.unlink(missing_ok=True)  # another process may delete it at the same time
        return None

    def add(self, name: str, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a new file. It gets its name when it is on disk."""
        partial = self.folder / f"{name}.{os.getpid()}.partial"
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        path = self.folder / f"{name}.{compute_digest(partial)}"
        partial.replace(path)
        return path

    @cached_property
    def notes(self) -> dict[str, str]:
        """The names of files, by the plan that led to them; of other processes those at the first
        look."""
        names = [path.name.partition(".") for path in self.folder.glob(f"{PLAN}*.{DIGEST_PATTERN}")]
        return {plan.removeprefix(PLAN): name for plan, _, name in names}

    def recall(self, plan: str) -> Path | None:
        """Return the file that a plan led to, or None if it is not known or not intact."""
        path = self.folder / self.notes.get(plan, "")
        return path if is_intact(path) else None

    def remember(self, plan: str, path: Path) -> None:
        """Note the file that a plan led to. The note ends with the file's digest, so it is
        collected when the file is."""
        (self.folder / f"{PLAN}{plan}.{path.name}").touch()
        self.notes[plan] = path.name


def is_intact(path: Path) -> bool:
    return path.is_file() and compute_digest(path) == path.name.rpartition(".")[2]


def open_file_cache(out: Path) -> FileCache:
    """Open the file cache of the stage that fills ``out``.

    Runs of a stage that differ only in its ``incremental`` settings share one folder, which the
    store writes into a note. Without that note the cache lives beside ``out``.
    """
    note = out.parent / KEPT
    return FileCache(
        Path(note.read_text(encoding="utf-8")) if note.exists() else out.parent / "kept"
    )
