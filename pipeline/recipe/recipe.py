"""Recipe: turns a TOML file into a pipeline. Every mistake in it is reported here, before anything
runs."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.core.stage import Stage, list_fields
from attar.pipeline.keys.deciders import list_code_names
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.recipe import candidates
from attar.pipeline.recipe.search_space import SECTION, SearchSpace, read_search_space
from attar.pipeline.recipe.setting_errors import (
    COMMON,
    explain_errors,
    make_missing_error,
    name_setting,
)
from attar.pipeline.recipe.slot import PIN, Slot, Table
from attar.pipeline.recipe.tables import merge_tables, read_recipe, read_section, refuse_text

PLACES = {"file": Path.is_file, "files": Path.is_file, "folder": Path.is_dir}
"""What a setting may name, and the test that it exists."""


@dataclass(frozen=True)
class Recipe:
    name: str
    path: Path
    pipeline: Pipeline
    targets: tuple[str, ...]
    search: SearchSpace | None = None
    """What ``attar search`` may choose; None if the recipe has no ``[search]``."""

    @property
    def title(self) -> str:
        return self.path.stem


def load_recipe(
    path: Path,
    table: Iterable[Slot],
    overrides: Iterable[str] = (),
    targets: Iterable[str] = (),
    device: str = "auto",
    code: Fingerprint | None = None,
    against: Path | None = None,
    trusted: Path | None = None,
    text: str | None = None,
) -> Recipe:
    """Load a recipe and check everything that can be checked without running anything. ``targets``
    selects targets; none selects all.

    ``against`` is the bundle to compare the only target with, whatever the recipe names;
    ``trusted`` has keys one of which must have signed it.

    Raises RecipeError for an unknown name anywhere, a setting of the wrong type or range, a missing
    file, or a missing object of code.
    """
    slots = list(table)
    tables = read_recipe(path, overrides, text)
    shared = [slot for slot in slots if not slot.per_target]
    suffix = [slot for slot in slots if slot.per_target]
    sections = [slot.name for slot in shared]
    candidates.check_known(path.name, tables, [*COMMON, SECTION, "targets", *sections])
    chosen = _targets(tables, targets)
    if against is not None:
        chosen = _against(chosen, against, trusted)
    elif trusted is not None:
        raise RecipeError(
            f"--trusted {trusted} says who may have signed the bundle of --against, and none is "
            "given; give both"
        )
    given = {name: tables[name] for name in COMMON if name in tables} | {"device": device}
    bound: dict[str, SlotBinding] = {}
    for slot in shared:
        like: Table = {}
        for name in slot.like:
            given_there = select_fields(slot.stage, tables.get(name, {}))
            like |= {k: value for k, value in given_there.items() if k not in slot.unlike}
        section = read_section(tables, slot.name)
        if "task" in section and not slot.own_task:
            raise RecipeError(
                f"{slot.name}.task: its task is the recipe's; only {_own_task(slots)} may have "
                "another"
            )
        inputs = slot.sources("required")
        bound[slot.name] = _bind(slot.stage, slot.name, given, like | section, path, inputs)
    for target, settings in chosen.items():
        bound |= _of_target(target, suffix, settings, read_section(tables, "gates"), given, path)
    _check_code(code or Fingerprint(path.parent), bound)
    space = read_search_space(tables)
    return Recipe(make_recipe_id(path), path, Pipeline(bound), tuple(chosen), space)


def _of_target(
    target: str, slots: Sequence[Slot], settings: Table, gates: Table, given: Table, path: Path
) -> dict[str, SlotBinding]:
    """Return the slots of one target."""
    fields = {key for slot in slots for key in slot.stage.model_fields}
    candidates.check_known(f"[targets.{target}]", settings, {"gates", *fields} - {"task"})
    filled: Table = {"name": make_bundle_name(path, target)} | settings
    filled["gates"] = merge_tables(gates, read_section(settings, "gates"))
    bound: dict[str, SlotBinding] = {}
    for place in candidates.list_places(target, slots, filled, given):
        stage = place.slot.stage
        own = select_fields(stage, place.settings)
        bound[place.name] = _bind(stage, place.name, given, own, path, place.inputs)
    candidates.check_different(target, bound)
    return bound


def make_bundle_name(recipe: Path, target: str) -> str:
    """Return the name of a target's bundle that the recipe does not name: of the letters of the
    file's name those that a URL takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{recipe.stem}-{target}").lstrip("._-")


def select_fields(kind: type[Stage[Any]], settings: Table) -> Table:
    """Return the settings that a stage has fields for."""
    return {key: value for key, value in settings.items() if key in kind.model_fields}


def _own_task(slots: Iterable[Slot]) -> str:
    return ", ".join(f"[{slot.name}]" for slot in slots if slot.own_task) or "none"


def make_recipe_id(path: Path) -> str:
    """Return the name under which the store remembers a recipe: its own and a digest of its
    path."""
    return f"{path.stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def _targets(tables: Table, wanted: Iterable[str]) -> dict[str, Table]:
    refuse_text("targets", wanted)
    names = tuple(wanted)
    targets = read_section(tables, "targets")
    for name, section in targets.items():
        if not isinstance(section, dict):
            raise RecipeError(
                f"[targets] holds sections such as [targets.cpu]; got {name} = {section!r}"
            )
        if not name.isidentifier():
            raise RecipeError(
                f"target {name!r}: a name is letters, digits and _, because it becomes part of "
                "file names"
            )
    candidates.check_known("--target", names, targets)
    return {name: section for name, section in targets.items() if not names or name in names}


def _against(targets: Mapping[str, Table], bundle: Path, trusted: Path | None) -> dict[str, Table]:
    if len(targets) != 1:
        raise RecipeError(
            f"--against {bundle} is about one target, this is about "
            f"{', '.join(targets) or 'none'}; name one with --target"
        )
    given = {"against": str(bundle.absolute())}
    if trusted is not None:
        given["trusted"] = str(trusted.absolute())
    return {name: {**section, **given} for name, section in targets.items()}


def _bind(
    kind: type[Stage[Any]],
    name: str,
    given: Table,
    section: Table,
    path: Path,
    inputs: Mapping[str, str],
) -> SlotBinding:
    """Build the stage of one slot from its settings, and connect its inputs."""
    keep = _key(f"{name}.{PIN}", section.pop(PIN, None))
    settings = select_fields(kind, given) | section
    for what, is_there in PLACES.items():
        for field_name in list_fields(kind, what):
            if isinstance(settings.get(field_name), str):
                settings[field_name] = place = path.parent / settings[field_name]
                if not is_there(place):
                    setting = name_setting(name, [field_name])
                    raise make_missing_error(setting, what, place, path)
    try:
        stage = kind(**settings)
    except ValidationError as error:
        raise RecipeError(explain_errors(name, kind, settings, error)) from error
    pinned: dict[str, str] = {}
    for field_name in list_fields(kind, "artifact"):
        if (key := _key(f"{name}.{field_name}", settings.get(field_name))) is not None:
            pinned[field_name] = key
    return SlotBinding(stage, inputs, keep, pinned)


def _key(place: str, value: Any) -> str | None:
    """Return the beginning of a key, or None if there is none. Raises RecipeError for anything
    else."""
    if value is None or (isinstance(value, str) and re.fullmatch("[0-9a-f]{8,64}", value)):
        return value
    raise RecipeError(
        f"{place} must be a key, or at least its first 8 hex digits; got {value!r}; `attar ls` "
        "lists keys"
    )


def _check_code(code: Fingerprint, bound: Mapping[str, SlotBinding]) -> None:
    for slot, item in bound.items():
        for name in list_code_names(item.stage):
            takes_options = name == getattr(item.stage, "network", None)
            try:
                code.require(name, getattr(item.stage, "options", {}) if takes_options else None)
            except RecipeError as error:
                raise RecipeError(f"{slot}: {error}") from error
