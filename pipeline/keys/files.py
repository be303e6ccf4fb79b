"""Files: their stamps and digests.

Each file costs one ``stat``, each folder one listing, and a file is read once for each stamp. A
stamp includes the time of the last change of status (ctime): tools that keep mtimes (``cp -p``,
``tar``, ``rsync -t``) can set the mtime, but not the ctime.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from attar.pipeline.core.disk import compute_digest
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import report_progress

READERS = 4
"""Number of files that are read at a time, so that the disk is the bottleneck, not one core."""
PART = 32
"""Number of files that a reader takes at once."""
SETTLED_NANOSECONDS = 10**9
"""A file whose status changed less than this ago may change again without a new stamp: clocks of
file systems are coarse."""
Stamp = tuple[int, int, int, int]
"""Size in bytes, mtime and ctime in nanoseconds, inode."""


class FileState(NamedTuple):
    """A file, and the digest of its content at this stamp.

    A ``ctime`` of 0 marks a file that had not settled, or an old note without one: the file is read
    again.
    """

    path: str
    size: int
    mtime: int
    sha256: str
    ctime: int = 0
    inode: int = 0

    @property
    def stamp(self) -> Stamp:
        return self.size, self.mtime, self.ctime, self.inode


NOTE = TypeAdapter(list[FileState])
"""The JSON of what a process read."""
_hashed: dict[str, FileState] = {}
"""By path: files that this process has read, or knows by ``remember_files``."""


def read_states(note: Any) -> list[FileState]:
    """Return the files of a note; none if it is missing or damaged: it only saves time."""
    try:
        return NOTE.validate_python(note)
    except ValidationError:
        return []


def remember_files(states: Iterable[FileState]) -> None:
    """Let this process rely on digests that another one computed."""
    for state in states:
        _hashed.setdefault(state.path, state)  # what this process read itself is newer


def hash_files(stamps: Mapping[str, Stamp]) -> dict[str, FileState]:
    """Return the states of these files, by absolute path. A file that is known with this stamp is
    not read.

    Raises StageError for a file that cannot be read.
    """
    unknown = [
        path
        for path, stamp in stamps.items()
        if path not in _hashed or _hashed[path].stamp != stamp
    ]
    now = time.time_ns()
    for path, digest in zip(unknown, _read(unknown), strict=True):
        size, mtime, ctime, inode = settle_stamp(stamps[path], now)
        _hashed[path] = FileState(path, size, mtime, digest, ctime, inode)
    return {path: _hashed[path] for path in stamps}


def _read(paths: list[str]) -> Iterator[str]:
    """Yield the digest of each file."""
    parts = [paths[start : start + PART] for start in range(0, len(paths), PART)]
    if len(parts) < 2:
        yield from map(_digest, paths)
        return
    with ThreadPoolExecutor(READERS) as pool:
        for number, digests in enumerate(pool.map(_digests, parts)):
            report_progress("hashing files", number * PART, len(paths))
            yield from digests


def _digests(paths: list[str]) -> list[str]:
    return [_digest(path) for path in paths]


def _digest(path: str) -> str:
    try:
        return compute_digest(Path(path))
    except OSError as error:
        raise StageError(
            f"{path} cannot be read: {error.strerror}; it decides what is made, so it must be "
            "readable"
        ) from error


@dataclass(frozen=True)
class PathStamps:
    """Files and folders at some absolute paths."""

    files: dict[str, Stamp] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)
    """By folder: all names in the folders of ``files``."""


def stamp_paths(paths: Iterable[str]) -> PathStamps:
    """Return the stamps of these absolute paths. Each folder is listed once. Raises StageError for
    a missing path."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folder, _, name = path.rpartition("/")
        wanted[folder].add(name)
    stamps = PathStamps()
    for folder, inside in wanted.items():
        _scan(folder, inside, stamps)
    return stamps


def _scan(folder: str, wanted: set[str], stamps: PathStamps) -> None:
    """Add the stamps of one folder. ``stat`` of an entry takes half as long as that of a path."""
    left, names = set(wanted), list[str]()
    if Path(folder or "/").is_dir():
        with os.scandir(folder or "/") as entries:
            for entry in entries:
                names.append(name := entry.name)
                if name in left and entry.is_file():
                    stamps.files[f"{folder}/{name}"] = make_stamp(entry.stat())
                    left.remove(name)
    places = [f"{folder}/{name}" for name in sorted(left)]
    folders = [path for path in places if Path(path).is_dir()]
    stamps.folders.extend(folders)
    stamps.files.update((path, stamp_file(path)) for path in places if path not in folders)
    if len(folders) < len(wanted):
        stamps.names[folder or "/"] = names


def list_subfolders(folder: str) -> list[str]:
    """Return the names of the folders in a folder; none of one that this user may not list."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except PermissionError:
        return []


def stamp_file(path: str) -> Stamp:
    """Return the stamp of a file. Raises StageError if there is no file."""
    try:
        stat = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StageError(
            f"there is no file {path}; put it there, or name one that is there"
        ) from error
    if not S_ISREG(stat.st_mode):
        raise StageError(f"there is no file {path}, but something else; name a file")
    return make_stamp(stat)


def make_stamp(stat: os.stat_result) -> Stamp:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def settle_stamp(stamp: Stamp, now: int) -> Stamp:
    """Return the stamp to remember of a file that is read after ``now``, in nanoseconds: one that
    no file has, with a ctime of 0, if the file has not settled."""
    size, mtime, ctime, inode = stamp
    return size, mtime, ctime if now - ctime >= SETTLED_NANOSECONDS else 0, inode


def stamp_folder(folder: str) -> dict[str, Stamp]:
    """Return the stamp of every file below a folder, by absolute path, sorted by path.

    Links count as their targets. Hidden files and folders do not count: they are notes of tools.
    Raises StageError if there is no folder, and for a link that leads nowhere or to a folder above
    it.
    """
    if not Path(folder).is_dir():
        raise StageError(f"there is no folder {folder}; put it there, or name one that is there")
    stamps: dict[str, Stamp] = {}
    todo = [(folder, frozenset[tuple[int, int]]())]
    while todo:
        place, above = todo.pop()
        stat = Path(place).stat()
        if (own := (stat.st_dev, stat.st_ino)) in above:
            raise StageError(
                f"{place} is a link to a folder that it is in, so it has no end; take it away, or "
                "hide it with a dot"
            )
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    todo.append((entry.path, above | {own}))
                elif entry.is_file():
                    stamps[entry.path] = make_stamp(entry.stat())
                elif entry.is_symlink():
                    raise StageError(
                        f"{entry.path} is a link that leads nowhere; mend it, or take it away"
                    )
    return dict(sorted(stamps.items()))


def stamp_together(path: str) -> dict[str, Stamp]:
    """Return the stamps of a file and of those beside it whose names begin with its name."""
    name = Path(path).name
    beside = (file for file in sorted(Path(path).parent.iterdir()) if file.name.startswith(name))
    return {str(file): stamp_file(str(file)) for file in beside if file.is_file()}
