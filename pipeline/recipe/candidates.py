"""Candidates: a target that lists several forms of its engine gets slots for each of them, and
slots that choose one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from attar.pipeline.core.errors import RecipeError, suggest_name
from attar.pipeline.core.graph import SlotBinding, is_candidate
from attar.pipeline.core.stage import Stage, UnusedSettingError
from attar.pipeline.recipe.pair import BATCH, SINGLE, SUFFIX, read_batch_sizes
from attar.pipeline.recipe.pair import KEY as SIZES
from attar.pipeline.recipe.slot import Slot, Table

KEY = "candidates"
ALL = "all"
EXAMPLE = 'candidates = [{ precision = "fp32" }, { precision = "int8" }], or candidates = "all"'


@dataclass(frozen=True)
class Place:
    """A slot of a target: its full name, the settings that its stage may take, and the slots that
    feed its inputs."""

    slot: Slot
    name: str
    settings: Table
    inputs: Mapping[str, str]


def list_places(
    target: str, slots: Sequence[Slot], settings: Table, given: Table
) -> Iterator[Place]:
    """Yield the slots of a target in order: ``TARGET.model`` and so on.

    If it has candidates, ``TARGET.c1.model``, ``TARGET.c1.engine``, ``TARGET.c2.model``, ... come
    first, then the slots that choose. The target's settings are the candidates' defaults. If it is
    to be fast at two batch sizes, each paired slot is followed by that of the engine for batches,
    such as ``TARGET-batch.engine``. Raises RecipeError for invalid candidates and batch sizes.
    """
    sizes = read_batch_sizes(target, settings, has_candidates=KEY in settings)
    own = [slot for slot in slots if slot.scope == "candidate"]
    listed = expand_candidates(target, slots, settings, given) if KEY in settings else {}
    for name, candidate in listed.items():
        inside = {slot.name: f"{target}.{name}.{slot.name}" for slot in own}
        yield from (
            Place(slot, inside[slot.name], candidate, wire_inputs(slot, inside)) for slot in own
        )
    rest = [slot for slot in slots if slot.scope != ("candidate" if listed else "choice")]
    beside = {slot.name: f"{target}.{slot.name}" for slot in rest}
    paired = {slot.name: f"{target}{SUFFIX}.{slot.name}" for slot in rest if slot.paired}
    for_batches = paired if len(sizes) > 1 else {}
    seen = beside | {f"{BATCH}{name}": place for name, place in for_batches.items()}
    seen |= {f"{SINGLE}{name}": beside[name] for name in for_batches}
    filled = settings | {KEY: list(listed.values())}
    for slot in rest:
        single = filled | ({SIZES: sizes[0]} if sizes else {})
        yield Place(slot, beside[slot.name], single, wire_inputs(slot, seen, target, listed))
        if slot.name in for_batches:
            inputs = wire_inputs(slot, beside | paired, target, listed)
            yield Place(slot, paired[slot.name], filled | {SIZES: sizes[1]}, inputs)


def wire_inputs(
    slot: Slot, beside: Mapping[str, str], target: str = "", names: Iterable[str] = ()
) -> dict[str, str]:
    """Return the slot that feeds each input: one in ``beside`` if there is one; for repeated inputs
    the slot of each candidate; none for optional inputs whose slot is not in ``beside``."""
    inputs: dict[str, str] = {}
    for name, source in slot.sources("required").items():
        inputs[name] = beside.get(source, source)
    for name, source in slot.sources("optional").items():
        inputs |= {name: beside[source]} if source in beside else {}
    for source in slot.sources("repeated").values():
        inputs |= {name: f"{target}.{name}.{source}" for name in names}
    return inputs


def expand_candidates(
    target: str, slots: Sequence[Slot], settings: Table, given: Table
) -> dict[str, Table]:
    """Return the settings of ``c1``, ``c2``, ... Raises RecipeError.

    ``given`` are the settings that all stages of the recipe share.
    """
    stages = [slot.stage for slot in slots if slot.scope == "candidate"]
    fields = {key for stage in stages for key in stage.model_fields} - {"task"}
    defaults = {key: value for key, value in settings.items() if key in fields}
    listed = read_candidate_tables(f"[targets.{target}] {KEY}", slots, settings[KEY])
    for number, own in enumerate(listed, 1):
        check_known(f"[targets.{target}] candidate {number}", own, fields)
    used = [select_defaults(stages, defaults, own, given) for own in listed]
    for key in defaults:
        if not any(key in taken for taken in used):
            why = (
                f"{KEY} = {ALL!r} chooses it"
                if settings[KEY] == ALL
                else f"each of the {KEY} has its own, or no use for it"
            )
            raise RecipeError(
                f"[targets.{target}] {key} = {defaults[key]!r} is never used: {why}; remove it"
            )
    return {
        f"c{number}": taken | own
        for number, (taken, own) in enumerate(zip(used, listed, strict=True), 1)
    }


def select_defaults(
    stages: Iterable[type[Stage[Any]]], defaults: Table, own: Table, given: Table
) -> Table:
    """Return the defaults that a candidate takes.

    It does not set them itself, and no stage finds them unused beside what it sets.
    """
    settings = given | defaults | own
    unused = {name for stage in stages for name in find_unused(stage, settings)}
    return {key: value for key, value in defaults.items() if key not in unused | own.keys()}


def find_unused(stage: type[Stage[Any]], settings: Table) -> set[str]:
    """Return the settings for which the stage raises UnusedSettingError. Ignores other errors."""
    try:
        stage(**{name: settings[name] for name in stage.model_fields if name in settings})
    except ValidationError as error:
        causes = [item.get("ctx", {}).get("error") for item in error.errors()]
        return {n for cause in causes if isinstance(cause, UnusedSettingError) for n in cause.names}
    return set()


def read_candidate_tables(place: str, slots: Sequence[Slot], value: Any) -> Sequence[Table]:
    """Return the settings of each candidate. Raises RecipeError for anything but ``"all"`` and a
    list of tables, and for an empty list."""
    if value == ALL:
        return [own for slot in slots if slot.offers for own in slot.offers()]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RecipeError(
            f"{place} must be a list of tables, or {ALL!r}; got {value!r}; write {EXAMPLE}"
        )
    if not value:
        raise RecipeError(f"{place} lists none; write {EXAMPLE}, or remove it")
    return value


def check_known(where: str, names: Iterable[str], among: Iterable[str]) -> None:
    """Raises RecipeError for a name that is not among these."""
    for name in names:
        if name not in among:
            raise RecipeError(f"{where}: unknown name {name!r}; {suggest_name(name, among)}")


def check_different(target: str, bound: Mapping[str, SlotBinding]) -> None:
    """Raises RecipeError for two candidates that are equal, defaults included."""
    stages: dict[str, list[Any]] = {}
    for slot, item in bound.items():
        if is_candidate(slot):
            stages.setdefault(slot.split(".")[1], []).append(item.stage)
    for name, own in stages.items():
        first = next(other for other, theirs in stages.items() if theirs == own)
        if first != name:
            raise RecipeError(
                f"[targets.{target}] {KEY} {first[1:]} and {name[1:]} are the same; remove one"
            )
