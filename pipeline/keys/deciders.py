"""Keys: everything that decides a slot's result, and what to say when one of those things changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attar.pipeline.core import names
from attar.pipeline.core.stage import Artifact, Stage
from attar.pipeline.core.store import Store, canonical
from attar.pipeline.keys import data, machine
from attar.pipeline.keys.fingerprint import Fingerprint

Deciders = dict[str, Any]


class Keys:
    """Computes deciders. ``may_import``: whether a task may be asked for its data; a plan only remembers what it said."""

    def __init__(self, store: Store, code: Fingerprint) -> None:
        self.store, self.code = store, code
        self.entries: dict[str, list[data.Entry]] = {}

    def deciders(self, stage: Stage[Any], inputs: Mapping[str, Artifact], *, may_import: bool) -> Deciders | None:
        """None when the data of its task are not known yet (the task was never run and ``may_import`` is off).

        ``inputs`` may hold optional ones. Of those the content counts alone: code that once made one may be gone.
        """
        kind = type(stage)
        unread = {*kind.needs(), *kind.takes()} - stage.reading()
        inputs = {name: artifact for name, artifact in inputs.items() if name not in unread}
        roots = [f"{kind.__module__}:{kind.__qualname__}", *(name for name in code_names(stage) if name)]
        roots += stage.following()
        needed = [artifact for name, artifact in inputs.items() if name not in kind.takes()]
        roots += [artifact.facts[fact] for artifact in needed for fact in artifact.code if fact in artifact.facts]
        code = self.code.of(roots)
        libraries = dict(code.packages)
        for library in {*kind.libraries, *(library for artifact in inputs.values() for library in artifact.libraries)}:
            libraries |= self.code.of([f"{library}:"]).packages
        found: Deciders = {
            "stage": kind.__qualname__,
            "settings": settings(stage),
            "code": dict(code.definitions),
            "libraries": libraries | {"python": machine.describe()["python"].rpartition(".")[0]},
            "inputs": {name: artifact.digest for name, artifact in inputs.items()},
        }
        if "task" in stage.deciding():
            found["data"] = self.data_of(stage.task, may_import=may_import)  # type: ignore[attr-defined]  # a field of that stage
            if found["data"] is None:
                return None
        if kind.bound_to_machine:
            found["machine"] = machine.describe()
        if lacks := stage.lacks():
            found["lacks"] = lacks
        return found

    def data_of(self, task: str, *, may_import: bool) -> str | None:
        """Digest of the data that a task says its splits come from.

        Remembered under what ``Task.data`` may depend on: the task's code, where that code is, and ``ATTAR_DATA``.
        """
        if task not in self.entries:
            place = str(self.code.path(names.split(task)[0]))
            note = f"data/{digest([self.code.of([task]).digest, place, os.environ.get('ATTAR_DATA')])}.json"
            known = self.store.read_note(note)
            found = data.refreshed(known) if known is not None else None
            if found is None and not may_import:
                return None
            self.entries[task] = data.entries(names.load(task)().data()) if found is None else found
            if may_import:
                self.store.write_note(note, self.entries[task])
        return digest(data.content(self.entries[task]))

    def edited(self, stage: Stage[Any], deciders: Deciders) -> list[str]:
        """Files of code and data, and those that settings name, that are no longer what these deciders were computed from."""
        changed = data.changed(each for known in self.entries.values() for each in known)
        return [*self.code.edited(deciders["code"]), *changed, *moved(stage, deciders["settings"])]


def key(deciders: Deciders) -> str:
    return digest(deciders)


def refused(deciders: Deciders) -> Deciders:
    """Of the refusal of what these decide: it is kept under a key of its own, for only candidates may be refused."""
    return deciders | {"refused": True}


def shared(stage: Stage[Any], deciders: Deciders) -> str | None:
    """Digest of the deciders without what ``grows``; None for a stage that keeps nothing for others."""
    if not stage.grows:
        return None
    fixed = {name: value for name, value in deciders["settings"].items() if name not in stage.grows}
    return digest({name: value for name, value in deciders.items() if name not in stage.grows} | {"settings": fixed})


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def code_names(stage: Stage[Any]) -> list[str]:
    return [getattr(stage, field) for field in type(stage).named("code") if field in stage.deciding()]


def settings(stage: Stage[Any]) -> dict[str, Any]:
    """The settings that decide the result, as JSON; files and folders by their content."""
    values: dict[str, Any] = stage.model_dump(mode="json", include=set(stage.deciding()))
    return values | {field: read(path) for field, (path, read) in places(stage, values).items()}


def moved(stage: Stage[Any], known: Mapping[str, Any]) -> list[str]:
    """The files and folders among the settings whose content is no longer the known one."""
    named = places(stage, stage.model_dump(mode="json", include=set(stage.deciding())))
    return [str(path) for field, (path, read) in named.items() if not path.exists() or read(path) != known[field]]


def places(stage: Stage[Any], values: Mapping[str, Any]) -> dict[str, tuple[Path, Callable[[Path], str]]]:
    """The settings that name a file or a folder, and what gives the digest of what is there."""
    named = [(field, read) for kind, read in CONTENT.items() for field in type(stage).named(kind)]
    return {field: (Path(values[field]), read) for field, read in named if values.get(field) is not None}


CONTENT: Mapping[str, Callable[[Path], str]] = {
    "file": lambda path: data.file_digest(path, *data.stamp(path)),
    "files": lambda path: digest(data.together(path)),
    "folder": lambda path: digest(data.folder(path)),
}
"""Digest of what a setting names, by what it is."""


def changes(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Which deciders differ, from what to what: ``settings.epochs: 6 -> 8``."""
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changes(old, new, f"{path}{name}.")
        elif old != new and path == "inputs.":
            yield f"{name} changed"
        elif old != new:
            yield f"{path}{name}: {short(old)} -> {short(new)}"


def short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else canonical(value)
    is_digest = len(text) in (32, 64) and all(c in "0123456789abcdef" for c in text)
    return text[:8] if is_digest else text
