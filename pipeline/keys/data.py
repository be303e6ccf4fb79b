"""Data: the files and versions of a task's splits, remembered so that planning imports nothing."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from attar.pipeline.core.errors import StageError
from attar.pipeline.keys import files
from attar.pipeline.keys.files import FileState, PathStamps

FORMAT = 3
"""Version of the JSON of ``DataState.to_json``."""
NameDigests = dict[str, str]
"""By folder: the digest of names in it."""
UNSEEN = (0, 0, "")
"""Size, mtime and digest of a file that was not read yet."""


class FolderState(NamedTuple):
    """A folder and all files below it."""

    path: str
    files: list[FileState]


Item = str | FileState | FolderState
"""A version string, a file or a folder."""


class FolderNote(BaseModel):
    folder: str
    files: list[FileState]


class DataNote(BaseModel):
    """The JSON of a ``DataState``."""

    items: list[str | FileState | FolderNote]
    names: NameDigests
    home: str | None


@dataclass(frozen=True)
class DataState:
    """The items that ``Task.data()`` returned, in order, with the state of each file at the last
    look."""

    items: list[Item]
    names: NameDigests
    """The names in the folders of these files, and of folders beside them. A new one may belong to
    the data, so the task is asked again."""
    home: str | None = None
    """The recipe's folder. Of the files in it only those count that end as one of the data does:
    recipes, code and reports are there, too."""

    def to_json(self) -> dict[str, Any]:
        items = [
            {"folder": item.path, "files": item.files} if isinstance(item, FolderState) else item
            for item in self.items
        ]
        return {"items": items, "names": self.names, "home": self.home}

    @classmethod
    def from_json(cls, note: Any) -> DataState | None:
        """Return None for a note that is missing or damaged: it only saves time."""
        try:
            read = DataNote.model_validate(note)
        except ValidationError:
            return None
        return cls([_read_item(item) for item in read.items], read.names, read.home)

    def list_files(self) -> Iterator[FileState]:
        for item in self.items:
            if isinstance(item, FileState):
                yield item
            elif isinstance(item, FolderState):
                yield from item.files


def _read_item(item: str | FileState | FolderNote) -> Item:
    return FolderState(item.folder, item.files) if isinstance(item, FolderNote) else item


def inspect_data(items: Iterable[Path | str], home: Path | None = None) -> DataState:
    """Return the state of what ``Task.data()`` returned to a recipe in the folder ``home``.

    Raises StageError for a missing file, and for anything but paths and versions.
    """
    if isinstance(items, str | Path) or not all(isinstance(item, str | Path) for item in items):
        raise StageError(
            f"the task's data() returned {items!r}; it must return a list of paths and version "
            "strings"
        )
    check_versions(items, home)
    named = [
        item if isinstance(item, str) else FileState(str(item.absolute()), *UNSEEN)
        for item in items
    ]
    return _inspect(named, None if home is None else str(home))


def check_versions(items: Iterable[Path | str], home: Path | None) -> None:
    """Raises StageError for a text that names a file: as a version its content would not count."""
    places = {home or Path(), Path()}
    for item in items:
        if isinstance(item, str) and any(is_file(place / item) for place in places):
            raise StageError(
                f"the task's data() lists the text {item!r}, which is a version, and there is a "
                "file of that name, whose content would not count; write "
                "Path(__file__).parent / ..., which is a path"
            )


def is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):  # a version may be longer than a name of a file
        return path.is_file()
    return False


def refresh_data(known: DataState) -> DataState | None:
    """Return the current state of the same items, or None if files or folders were added or
    removed beside them, so that the task must be asked again."""
    files.remember_files(known.list_files())
    try:
        current = _inspect(known.items, known.home)
    except StageError:  # a file is gone; the task says what there is instead
        return None
    return current if current.names == known.names else None


def _inspect(items: Sequence[Item], home: str | None) -> DataState:
    """Return the current state of these items."""
    found = files.stamp_paths(item.path for item in items if not isinstance(item, str))
    inside = {path: files.stamp_folder(path) for path in found.folders}
    states = files.hash_files(
        found.files | {path: stamp for each in inside.values() for path, stamp in each.items()}
    )
    places: dict[str, Item] = {
        **states,
        **{path: FolderState(path, [states[each] for each in inside[path]]) for path in inside},
    }
    current = [item if isinstance(item, str) else places[item.path] for item in items]
    return DataState(current, _digest_watched_names(found, home), home)


def _digest_watched_names(stamps: PathStamps, home: str | None) -> NameDigests:
    """Return the digests of all names in which something new may belong to the data."""
    watched = {folder: set(names) for folder, names in stamps.names.items()}
    if home is not None and home in watched:
        inside = (path.rpartition("/") for path in stamps.files)
        endings = {_ending(name) for folder, _, name in inside if folder == home}
        watched[home] = {name for name in watched[home] if _ending(name) in endings}
    for folder in list_folders_above(watched, home) - watched.keys():
        watched[folder] = set(files.list_subfolders(folder))
    return {folder: _digest_names(names) for folder, names in watched.items()}


def _ending(name: str) -> str:
    """Return the same as ``Path.suffix``, ten times as fast."""
    start, dot, end = name.rpartition(".")
    return dot + end if start and end else ""


def _parent(folder: str) -> str:
    return folder.rpartition("/")[0] or "/"


def _digest_names(names: set[str]) -> str:
    """Return the digest of names. Hidden ones do not count, nor Python's own folder."""
    shown = sorted(name for name in names - {"__pycache__"} if not name.startswith("."))
    return hashlib.sha256("\n".join(shown).encode(errors="surrogateescape")).hexdigest()[:32]


def list_folders_above(folders: Iterable[str], home: str | None) -> set[str]:
    """Return the folders above these in which a new folder may belong to the data.

    Of folders in ``home`` they are those up to that, of others all up to the one that holds them
    all: what is above has folders for other purposes, too.
    """
    places = set(folders)
    inside = {folder for folder in places if home and Path(folder).is_relative_to(home)}
    outside = places - inside
    shared = commonpath(outside) if outside else ""
    return _list_between(inside, home or "") - {home} | _list_between(outside, shared)


def _list_between(folders: Iterable[str], top: str) -> set[str]:
    """Return the folders above these up to ``top``, which holds all of them."""
    above: set[str] = set()
    for folder in folders:
        while len(folder) > len(top) and (folder := _parent(folder)) not in above:
            above.add(folder)
    return above


def list_changed(known: DataState) -> list[str]:
    """Return the files and folders that changed since this state."""
    return [item.path for item in known.items if not isinstance(item, str) and has_changed(item)]


def has_changed(item: FileState | FolderState) -> bool:
    """Whether the bytes, or the names in a folder, changed. A file with another stamp is read,
    since copies and links change stamps."""
    known = {file.path: file for file in ([item] if isinstance(item, FileState) else item.files)}
    try:
        stamps = (
            {item.path: files.stamp_file(item.path)}
            if isinstance(item, FileState)
            else files.stamp_folder(item.path)
        )
        differing = {
            path: stamp
            for path, stamp in stamps.items()
            if path in known and known[path].stamp != stamp
        }
        states = files.hash_files(differing)
    except StageError:  # it is gone
        return True
    return stamps.keys() != known.keys() or any(
        state.sha256 != known[path].sha256 for path, state in states.items()
    )


def describe_content(state: DataState) -> list[Any]:
    """Return what counts in a key: names and bytes in the task's order, and which files share a
    folder; not paths and times."""
    folders: dict[str, int] = {}
    content: list[Any] = []
    for item in state.items:
        if isinstance(item, str):
            content.append(["", hashlib.sha256(item.encode()).hexdigest()])
        elif isinstance(item, FolderState):
            content.append(
                {each.path.removeprefix(item.path).lstrip("/"): each.sha256 for each in item.files}
            )
        else:
            folder, _, name = item.path.rpartition("/")
            content.append([name, item.sha256, folders.setdefault(folder, len(folders))])
    if len(folders) > 1:
        return content
    return [each[:2] if isinstance(each, list) else each for each in content]
