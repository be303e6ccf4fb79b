"""Data: the files and versions that a task's splits come from, remembered so that planning imports nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import StageError
from attar.pipeline.core.store import digest_of

Entry = dict[str, Any]


def entries(items: Iterable[Path | str]) -> list[Entry]:
    """What is remembered of ``Task.data()``. Raises StageError for a missing file, and for what is neither file nor version."""
    if isinstance(items, str | Path) or not all(isinstance(item, str | Path) for item in items):
        raise StageError(f"the task's data() returned {items!r}; it must return a list of paths and version strings")
    return [of_version(item) if isinstance(item, str) else of_file(item) for item in items]


def of_version(text: str) -> Entry:
    return {"version": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def of_file(path: Path) -> Entry:
    size, mtime = stamp(path)
    where = path.absolute()
    return {"file": str(where), "size": size, "mtime": mtime, "sha256": file_digest(where, size, mtime), "beside": beside(where)}


def beside(path: Path) -> str:
    """Digest of the names in the file's folder that end like it: a file that is added there may belong to the data."""
    names = sorted(each.name for each in path.parent.iterdir() if each.suffix == path.suffix)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]


def refreshed(known: list[Entry]) -> list[Entry] | None:
    """The same entries, hashed again where a file changed; None when files came or went and the task must be asked again."""
    made: list[Entry] = []
    for each in known:
        path = Path(each["file"]) if "file" in each else None
        if path and (not path.is_file() or beside(path) != each["beside"]):
            return None
        made.append(each if path is None or stamp(path) == (each["size"], each["mtime"]) else of_file(path))
    return made


def changed(known: Iterable[Entry]) -> list[str]:
    """The files that are not what they were when these entries were made."""
    files = [(Path(each["file"]), (each["size"], each["mtime"])) for each in known if "file" in each]
    return [str(path) for path, was in files if not path.is_file() or stamp(path) != was]


def content(known: Iterable[Entry]) -> list[list[str]]:
    """What counts in a key: names and bytes in the task's order, not places and times."""
    return [[Path(each.get("file", "")).name, each["sha256"]] for each in known]


def folder(path: Path) -> dict[str, str]:
    """The digest of every file in a folder, by its name in there. Hidden ones do not count: they are notes of some tool."""
    files = {each.relative_to(path): each for each in sorted(path.rglob("*")) if each.is_file()}
    shown = {name: each for name, each in files.items() if not any(part.startswith(".") for part in name.parts)}
    return {name.as_posix(): file_digest(each.absolute(), *stamp(each)) for name, each in shown.items()}


def together(path: Path) -> dict[str, str]:
    """The digests of a file and of those beside it whose names begin with its own, by what follows it there."""
    files = sorted(each for each in path.parent.iterdir() if each.name.startswith(path.name) and each.is_file())
    return {each.name.removeprefix(path.name): file_digest(each.absolute(), *stamp(each)) for each in files}


def stamp(path: Path) -> tuple[int, int]:
    """Size and mtime. Raises StageError when there is no such file."""
    if not path.is_file():
        raise StageError(f"there is no file {path}")
    return path.stat().st_size, path.stat().st_mtime_ns


@lru_cache(maxsize=4096)
def file_digest(path: Path, size: int, mtime: int) -> str:
    """Digest of a file as it was at this size and mtime."""
    return digest_of(path)
