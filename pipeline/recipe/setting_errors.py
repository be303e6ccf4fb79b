"""Setting errors: a setting that a stage refuses, as a sentence that names its place in the
recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from attar.pipeline.core.errors import RecipeError, suggest_name
from attar.pipeline.core.graph import is_candidate
from attar.pipeline.core.stage import Stage
from attar.pipeline.recipe.pair import SUFFIX
from attar.pipeline.recipe.setting_words import (
    Place,
    drop_branches,
    explain_value,
    list_fields_beside,
)
from attar.pipeline.recipe.slot import Table

COMMON = ("task", "seed", "gates")
"""Top-level keys that every stage with such a field gets; a section's own value wins."""


def make_missing_error(setting: str, what: str, place: Path, recipe: Path) -> RecipeError:
    """Return the error of a file or folder that is not there."""
    kind = what.removesuffix("s")
    option = f"with --set {setting}='\"{kind.upper()}\"'"
    given = option if setting.count(".") == 1 else "on the command line"  # of no target
    return RecipeError(
        f"{setting}: there is no {kind} {place}; name one that is there, in {recipe} or {given}"
    )


def group_innermost(error: ValidationError, settings: Table) -> dict[Place, list[ErrorDetails]]:
    """Return the errors by the place of their setting, without those of a place that holds the
    place of another error."""
    groups: dict[Place, list[ErrorDetails]] = {}
    for item in error.errors():
        groups.setdefault(drop_branches(item["loc"], settings), []).append(item)

    def is_innermost(place: Place) -> bool:
        return not any(other != place and other[: len(place)] == place for other in groups)

    return {place: errors for place, errors in groups.items() if is_innermost(place)}


def name_section(slot: str) -> str:
    """Return the section of the recipe that has the settings of a slot."""
    target, dot, _ = slot.partition(".")
    return f"targets.{target.removesuffix(SUFFIX)}" if dot else slot


def name_setting(slot: str, place: Iterable[int | str]) -> str:
    """Return where a setting of a slot stands in the recipe; ``place`` is its own name, and the
    names inside of it. Gates may stand in two sections; a candidate may take a setting of its
    target."""
    names, section = [str(part) for part in place], name_section(slot)
    if section != slot and names[:1] == ["gates"]:
        return f"{'.'.join(names)} (of [gates] or [{section}.gates])"
    number = f" (candidate {slot.split('.')[1][1:]})" if is_candidate(slot) else ""
    return ".".join([section, *names]) + number


def explain_errors(
    slot: str, stage: type[Stage[Any]], settings: Table, error: ValidationError
) -> str:
    """Return a line for each of the settings that a stage refuses."""
    groups = group_innermost(error, settings)
    return "\n".join(explain_setting(slot, stage, *group) for group in groups.items())


def explain_setting(
    slot: str, stage: type[Stage[Any]], place: Place, errors: Sequence[ErrorDetails]
) -> str:
    """Return the sentence about one setting, which names its place in the recipe."""
    error, name = errors[0], name_setting(slot, place)
    if error["type"] == "extra_forbidden":
        known = list_fields_beside(stage, place)
        guess = f"; {suggest_name(str(place[-1]), known)}" if known else ""
        return f"{name}: unknown field{guess}"
    if error["type"] == "missing":
        return explain_missing(slot, place, error)
    if not place:
        return f"{name}: {error['msg'].removeprefix('Value error, ')}"
    return explain_value(name, errors)


def explain_missing(slot: str, place: Place, error: ErrorDetails) -> str:
    *parents, last = place
    beside = name_setting(slot, parents)
    if isinstance(last, int):
        return f"{beside} must be a list of more than {last}; got {error['input']!r}"
    section = "at the top of the recipe" if last in COMMON else f"in [{name_section(slot)}]"
    where = f"in {beside}" if parents else section
    return f"{name_setting(slot, place)} is missing; write {last} = ... {where}"
