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
from attar.pipeline.recipe.setting_words import explain_value, is_branch, list_fields_beside

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


def select_innermost(error: ValidationError) -> list[ErrorDetails]:
    """Return the errors whose place holds no place of another error."""
    places = [item["loc"] for item in error.errors()]

    def is_innermost(place: tuple[int | str, ...]) -> bool:
        return not any(other != place and other[: len(place)] == place for other in places)

    return [item for item in error.errors() if is_innermost(item["loc"])]


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


def explain_errors(slot: str, stage: type[Stage[Any]], error: ValidationError) -> str:
    """Return a line for each setting that a stage refuses."""
    groups: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for item in select_innermost(error):
        place = item["loc"][:-1] if is_branch(item) else item["loc"]
        groups.setdefault(place, []).append(item)
    return "\n".join(explain_setting(slot, stage, *group) for group in groups.items())


def explain_setting(
    slot: str, stage: type[Stage[Any]], place: tuple[int | str, ...], errors: Sequence[ErrorDetails]
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


def explain_missing(slot: str, place: tuple[int | str, ...], error: ErrorDetails) -> str:
    name = name_setting(slot, place)
    if isinstance(place[-1], int):
        listed = name_setting(slot, place[:-1])
        return f"{listed} must be a list of more than {place[-1]}; got {error['input']!r}"
    top = " at the top of the recipe" if place[0] in COMMON else f" in [{name_section(slot)}]"
    return f"{name} is missing; write {place[-1]} = ...{top}"
