"""Data: the files and versions of a task's splits, remembered so that planning imports nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from attar.pipeline.core.errors import StageError
from attar.pipeline.keys import files
from attar.pipeline.keys.files import FileState, NameDigests

FORMAT = 2
"""Version of the JSON of ``DataState.to_json``."""
UNSEEN = (0, 0, "")
"""Size, mtime and digest of a file that was not read yet."""


class FolderState(NamedTuple):
    """A folder and all files below it."""

    path: str
    files: list[FileState]


Item = str | FileState | FolderState
"""A version string, a file or a folder."""


@dataclass(frozen=True)
class DataState:
    """The items that ``Task.data()`` returned, in order, with the state of each file at the last
    look."""

    items: list[Item]
    names: NameDigests
    """The names in the folders of these files. A new name may belong to the data, so the task is
    asked again."""

    def to_json(self) -> dict[str, Any]:
        items = [
            {"folder": item.path, "files": item.files} if isinstance(item, FolderState) else item
            for item in self.items
        ]
        return {"items": items, "names": self.names}

    @classmethod
    def from_json(cls, note: Mapping[str, Any]) -> DataState:
        return cls([_read_item(item) for item in note["items"]], note["names"])

    def list_files(self) -> Iterator[FileState]:
        for item in self.items:
            if isinstance(item, FileState):
                yield item
            elif isinstance(item, FolderState):
                yield from item.files


def _read_item(item: Any) -> Item:
    if isinstance(item, dict):
        return FolderState(item["folder"], [FileState(*row) for row in item["files"]])
    return item if isinstance(item, str) else FileState(*item)


def inspect_data(items: Iterable[Path | str]) -> DataState:
    """Return the state of what ``Task.data()`` returned. Raises StageError for a missing file, and
    for anything but paths and versions."""
    if isinstance(items, str | Path) or not all(isinstance(item, str | Path) for item in items):
        raise StageError(
            f"the task's data() returned {items!r}; it must return a list of paths and version "
            "strings"
        )
    return _inspect(
        [
            item if isinstance(item, str) else FileState(str(item.absolute()), *UNSEEN)
            for item in items
        ]
    )


def refresh_data(known: DataState) -> DataState | None:
    """Return the current state of the same items, or None if files were added or removed beside
    them, so that the task must be asked again."""
    files.remember_files(known.list_files())
    try:
        current = _inspect(known.items)
    except StageError:  # a file is gone; the task says what there is instead
        return None
    return current if current.names == known.names else None


def _inspect(items: Sequence[Item]) -> DataState:
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
    return DataState(
        [item if isinstance(item, str) else places[item.path] for item in items], found.names
    )


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
