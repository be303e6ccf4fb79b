"""The winner's recipe: the searched recipe with the settings that won, as a file of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tomlkit

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.recipe.search_space import SECTION
from attar.recipes.workspace import SHIPPED, find_recipe
from attar.search.result import VariantResult
from attar.search.variant import Search


def choose_place(recipe: str) -> Path:
    """Return the file of the winner's recipe: beside the searched one, since its paths are relative
    to it; of a shipped recipe in the working directory."""
    path = find_recipe(recipe)
    folder = Path.cwd() if path.parent == SHIPPED else path.parent
    return folder / f"{path.stem}-found.toml"


def write_winner(search: Search, winner: VariantResult) -> Path:
    """Write the recipe without its search space and other targets, with the command's overrides and
    the winner's settings. Comments stay. Raises RecipeError if the file cannot be written."""
    document = tomlkit.parse(find_recipe(search.recipe).read_text(encoding="utf-8"))
    document.pop(SECTION)
    others = [name for name in document["targets"] if name != search.target]
    for name in others:
        del document["targets"][name]
    for override in search.overrides:
        place, _, value = override.partition("=")
        if not place.strip().startswith((f"{SECTION}.", *(f"targets.{name}." for name in others))):
            set_value(document, place.strip(), tomlkit.parse(f"value = {value}")["value"])
    for place, value in winner.settings.items():
        set_value(document, place, value)
    head = f"# Found by `attar search {Path(search.recipe).stem}`: {winner.title}.\n"
    file = choose_place(search.recipe)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(head + tomlkit.dumps(document), encoding="utf-8")
        return draft.replace(file)
    except OSError as error:
        raise RecipeError(
            f"cannot write the winner's recipe {file}: {error.strerror}; make its place writable "
            "and search again, which reuses all trainings"
        ) from error


def set_value(document: Any, place: str, value: Any) -> None:
    *parents, last = place.split(".")
    table = document
    for parent in parents:
        table = table.setdefault(parent, tomlkit.table())
    table[last] = value
