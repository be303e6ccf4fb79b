"""Setting errors: a setting that a stage refuses, as a sentence that names its place in the
recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from attar.pipeline.core.errors import RecipeError, suggest_name
from attar.pipeline.core.graph import is_candidate
from attar.pipeline.core.stage import Stage
from attar.pipeline.recipe.pair import SUFFIX

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


def list_fields_beside(model: type[BaseModel], place: Sequence[int | str]) -> Iterable[str]:
    """Return the fields of the model that has the last name of ``place``; none if what is on the
    way there is no model."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return ()
        if not issubclass(field.annotation, BaseModel):
            return ()
        model = field.annotation
    return model.model_fields


def explain_error(slot: str, stage: type[Stage[Any]], error: Mapping[str, Any]) -> str:
    """Return a pydantic error as a sentence that names the place in the recipe."""
    place = name_setting(slot, error["loc"])
    if error["type"] == "extra_forbidden":
        known = list_fields_beside(stage, error["loc"])
        guess = f"; {suggest_name(str(error['loc'][-1]), known)}" if known else ""
        return f"{place}: unknown field{guess}"
    if error["type"] == "missing":
        is_common = error["loc"][0] in COMMON
        top = " at the top of the recipe" if is_common else f" in [{name_section(slot)}]"
        return f"{place} is missing; write {error['loc'][-1]} = ...{top}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}; got {error['input']!r}" if error["loc"] else f"{place}: {message}"
