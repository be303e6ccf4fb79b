"""Keys: everything that decides a slot's result, and how to describe a change."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attar.pipeline.core import names
from attar.pipeline.core.disk import encode_json
from attar.pipeline.core.errors import StageError, StoreError
from attar.pipeline.core.import_path import drop_outdated_modules
from attar.pipeline.core.stage import Artifact, InputSpec, Stage, list_fields
from attar.pipeline.keys import data, files, machine
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.store.store import Store

KeyInputs = dict[str, Any]


class Keys:
    """Computes deciders. With ``may_import`` a task may be asked for its data; a plan uses what it
    returned last, as does a run that makes nothing."""

    def __init__(self, store: Store, code: Fingerprint) -> None:
        self.store, self.code = store, code
        self.data: dict[str, data.DataState] = {}
        self.digests: dict[str, str] = {}
        self.recalled: set[str] = set()
        self.unwritten: dict[str, Any] = {}
        self.asks = False

    def ask_tasks(self) -> None:
        """From now on ask each task for its data, once: something will be made of them, and files
        may have been added where no name that is known tells so."""
        self.asks = True
        self.digests.clear()

    def deciders(
        self, stage: Stage[Any], inputs: Mapping[str, Artifact], *, may_import: bool
    ) -> KeyInputs | None:
        """Return everything that decides the result of a stage. Return None if the data of its task
        are not known yet (the task never ran and ``may_import`` is off).

        ``inputs`` may hold optional ones. Only the content of those counts, since the code that
        made them may be gone.
        """
        kind = type(stage)
        specs, read = kind.inputs(), stage.reading()
        inputs = {
            name: given for name, given in inputs.items() if name not in specs or name in read
        }
        code = self.code.of(
            [names.place_of(kind), *list_code_names(stage), *list_input_code(specs, inputs)],
            artifacts={names.place_of(type(artifact)) for artifact in inputs.values()},
        )
        self.recall_files(stage)
        deciders: KeyInputs = {
            "stage": kind.__qualname__,
            "settings": describe_settings(stage),
            "code": dict(code.definitions),
            "libraries": dict(code.packages)
            | {"python": machine.describe_machine()["python"].rpartition(".")[0]},
            "inputs": {name: artifact.digest for name, artifact in inputs.items()},
        }
        if "task" in stage.deciding():
            deciders["data"] = self.data_of(stage.task, may_import=may_import)  # type: ignore[attr-defined]  # a field of that stage
            if deciders["data"] is None:
                return None
        if kind.bound_to_machine:
            deciders["machine"] = machine.describe_machine()
        if may_import:
            self.write_notes()
        return deciders

    def data_of(self, task: str, *, may_import: bool) -> str | None:
        """Return the digest of the data that a task's splits come from.

        It is remembered under everything that ``Task.data`` may depend on: the task's code, the
        place of that code, and ``ATTAR_DATA``.
        """
        if task not in self.digests:
            place = str(self.code.path(names.split_name(task)[0]))
            code = self.code.of([task]).digest
            origin = [data.FORMAT, code, place, os.environ.get("ATTAR_DATA")]
            note = f"data/{compute_json_digest(origin)}.json"
            before = data.DataState.from_json(self.store.read_note(note))
            current = None if before is None else data.refresh_data(before)
            if may_import and (self.asks or current is None):
                self.drop_outdated_code([])
                current = self.ask_for_data(task)
            if current is None:
                return None
            self.data[task] = current
            self.digests[task] = compute_json_digest(data.describe_content(self.data[task]))
            if current != before:
                self.unwritten[note] = current.to_json()
        return self.digests[task]

    def ask_for_data(self, task: str) -> data.DataState:
        """Return the state of what a task's ``data()`` lists now. Raises StageError if it lists
        what is not there."""
        kind = names.load_object(task)
        try:
            made = kind()
        except TypeError as error:
            raise StageError(
                f"{task} cannot be made without arguments: {error}; a task is a class that derives "
                "from attar.Task, with data, split and score"
            ) from error
        listed = made.data()
        try:
            return data.inspect_data(listed, self.code.home)
        except StageError as error:
            raise StageError(f"data() of {task}: {error}") from error

    def drop_outdated_code(self, stages: Iterable[Stage[Any]]) -> None:
        """Make sure that what is imported from here on is the code of these keys, and of the keys
        of these stages."""
        for stage in stages:
            self.code.of(list_code_names(stage))
        drop_outdated_modules(self.code.list_versions())

    def recall_files(self, stage: Stage[Any]) -> None:
        """Use digests of an earlier process for files that settings name and whose stamps are
        unchanged."""
        for kind, path in list_places(stage).values():
            note = f"data/{compute_json_digest([data.FORMAT, kind, str(path)])}.json"
            if note in self.recalled:
                continue
            self.recalled.add(note)
            known = files.read_states(self.store.read_note(note))
            files.remember_files(known)
            current = list(files.hash_files(LISTED[kind](str(path))).values())
            if current != known:
                self.unwritten[note] = current

    def write_notes(self) -> None:
        """Write what spares a later process reading files again; a read-only store goes without."""
        for note, value in self.unwritten.items():
            with contextlib.suppress(StoreError):
                self.store.write_note(note, value)
        self.unwritten.clear()

    def edited(self, stage: Stage[Any], deciders: KeyInputs) -> list[str]:
        """Return the files of code, data and settings that changed since these deciders were
        computed."""
        changed = [path for known in self.data.values() for path in data.list_changed(known)]
        return [
            *self.code.edited(deciders["code"]),
            *changed,
            *list_moved(stage, deciders["settings"]),
        ]


def compute_key(deciders: KeyInputs) -> str:
    return compute_json_digest(deciders)


def mark_refused(deciders: KeyInputs) -> KeyInputs:
    """Return the deciders of the refusal of this result. Refusals of candidates are stored under
    their own keys."""
    return deciders | {"refused": True}


def compute_shared_key(stage: Stage[Any], deciders: KeyInputs) -> str | None:
    """Return the digest of all deciders but the ``incremental`` ones, or None for a stage that
    shares no files."""
    if not stage.incremental:
        return None
    fixed = {name: value for name, value in deciders.items() if name not in stage.incremental}
    settings = {
        name: value for name, value in fixed["settings"].items() if name not in stage.incremental
    }
    return compute_json_digest(fixed | {"settings": settings})


def compute_json_digest(value: Any) -> str:
    return hashlib.sha256(encode_json(value).encode()).hexdigest()


def list_code_names(stage: Stage[Any]) -> list[str]:
    """Return the code that the settings name."""
    fields = [field for field in list_fields(type(stage), "code") if field in stage.deciding()]
    return [name for field in fields if (name := getattr(stage, field))]


def list_input_code(specs: Mapping[str, InputSpec], inputs: Mapping[str, Artifact]) -> list[str]:
    """Return the code that the facts of the inputs name.

    Of an optional input the content alone counts: the code that once made it may be gone."""
    optional = {name for name, spec in specs.items() if spec.role == "optional"}
    needed = [artifact for name, artifact in inputs.items() if name not in optional]
    return [
        artifact.facts[fact]
        for artifact in needed
        for fact in artifact.code
        if fact in artifact.facts
    ]


def describe_settings(stage: Stage[Any]) -> dict[str, Any]:
    """Return the deciding settings as JSON; files and folders by their content."""
    values: dict[str, Any] = stage.model_dump(mode="json", include=set(stage.deciding()))
    return values | {
        field: digest_place(kind, path) for field, (kind, path) in list_places(stage).items()
    }


def list_moved(stage: Stage[Any], known: Mapping[str, Any]) -> list[str]:
    """Return the files and folders among the settings whose content has changed."""
    named = list_places(stage).items()
    return [
        str(path)
        for field, (kind, path) in named
        if not path.exists() or digest_place(kind, path) != known[field]
    ]


def list_places(stage: Stage[Any]) -> dict[str, tuple[str, Path]]:
    """Return the deciding settings that name a file or a folder: its kind in ``LISTED`` and its
    path."""
    values = {field: getattr(stage, field) for field in stage.deciding()}
    named = [(field, kind) for kind in LISTED for field in list_fields(type(stage), kind)]
    return {
        field: (kind, Path(values[field]).absolute())
        for field, kind in named
        if values.get(field) is not None
    }


LISTED: Mapping[str, Callable[[str], Mapping[str, files.Stamp]]] = {
    "file": lambda path: {path: files.stamp_file(path)},
    "files": files.stamp_together,
    "folder": files.stamp_folder,
}
"""Functions that return the stamps of the files that a setting names, by the kind of setting."""


def digest_place(kind: str, path: Path) -> str:
    """Return the digest of a file, or of several files by their names relative to the path."""
    whole = str(path)
    states = files.hash_files(LISTED[kind](whole))
    if kind == "file":
        return states[whole].sha256
    return compute_json_digest(
        {file.removeprefix(whole).lstrip("/"): state.sha256 for file, state in states.items()}
    )


def list_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], path: str = ""
) -> Iterator[str]:
    """Yield the deciders that differ, with old and new value: ``settings.epochs: 6 -> 8``."""
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from list_changes(old, new, f"{path}{name}.")
        elif old != new and path == "inputs.":
            yield f"{name} changed"
        elif old != new:
            yield f"{path}{name}: {shorten(old)} -> {shorten(new)}"


def shorten(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else encode_json(value)
    is_digest = len(text) in (32, 64) and all(c in "0123456789abcdef" for c in text)
    return text[:8] if is_digest else text
