"""Tables: what the file of a recipe says, and the command's overrides of it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.recipe.slot import Table


def read_recipe(path: Path, overrides: Iterable[str] = (), text: str | None = None) -> Table:
    """Return the recipe's tables with ``slot.field=value`` overrides applied; values are TOML.
    ``text`` counts in the place of what the file has."""
    refuse_text("overrides", overrides)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8") if text is None else text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    for override in overrides:
        apply_override(tables, override, path.name)
    return tables


def apply_override(tables: Table, override: str, file: str) -> None:
    """Set one value in the tables of a file."""
    place, equals, value = override.partition("=")
    if not equals or not place.strip():
        raise RecipeError(f"--set {override!r} must read slot.field=value")
    *parents, last = place.strip().split(".")
    for parent in parents:
        tables = tables.setdefault(parent, {})
        if not isinstance(tables, dict):
            raise RecipeError(f"--set {override!r}: {parent} is a value in {file}, not a section")
    tables[last] = read_value(override, value)


def read_value(override: str, text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(
            f"--set {override!r}: {text!r} is no TOML value ({error}); text needs quotes: "
            f"'\"{text}\"'"
        ) from error


def read_section(tables: Table, name: str) -> Table:
    section = tables.get(name, {})
    if not isinstance(section, dict):
        raise RecipeError(f"{name} must be a section, [{name}]; got {section!r}")
    return dict(section)


def refuse_text(what: str, given: Iterable[str]) -> None:
    """Raise RecipeError for one text, which would be read letter by letter."""
    if isinstance(given, str):
        raise RecipeError(f"{what} = {given!r} is one text; write a list, [{given!r}]")


def merge_tables(below: Mapping[str, Any], above: Mapping[str, Any]) -> Table:
    """Return ``above`` merged over ``below``, table by table."""
    both = dict(below)
    for name, value in above.items():
        both[name] = (
            merge_tables(both[name], value)
            if isinstance(value, Mapping) and isinstance(both.get(name), Mapping)
            else value
        )
    return both
