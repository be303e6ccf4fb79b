"""Shipping: the files of a recipe that a node gets with its jobs.

What is shipped is what counts in a key and lies in the recipe's folder: the recipe, the code that
it names, its files and its data. Code that is not installed is shipped from wherever it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from attar.models.task import load_task
from attar.pipeline.core.errors import RecipeError
from attar.pipeline.keys.deciders import LISTED, list_code_names, list_places
from attar.recipes.workspace import SHIPPED, Workspace
from attar.search.variant import Search

MOST_BYTES = 256 * 2**20
"""Of all shipped files together. Ray keeps them in the memory of its head."""


def ship_recipe(search: Search, folder: Path) -> str:
    """Copy what a node needs to ``folder``, and return the recipe's name there.

    Raises RecipeError for combinations of values that cannot go together, and if the files are too
    large to be shipped; StageError if the task cannot be loaded.
    """
    workspace = search.open([])
    recipe = workspace.recipe.path
    if recipe.parent == SHIPPED:
        return recipe.stem
    files = {Path(recipe.name): recipe}
    for variant in search.variants:
        opened = search.open_trial(variant)
        files |= find_code(opened)
        files |= {path.relative_to(recipe.parent): path for path in list_own_files(opened)}
    files |= {path.relative_to(recipe.parent): path for path in list_data(workspace)}
    check_size(files, recipe.parent)
    for place, path in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / place)
    return recipe.name


def find_code(workspace: Workspace) -> dict[Path, Path]:
    """Return the files of the code that the recipe names, by their place on the import path."""
    code = workspace.run.code
    for bound in workspace.recipe.pipeline.slots.values():
        code.of(list_code_names(bound.stage))
    found = {}
    for module, path in code.paths.items():
        if path is not None and module.partition(".")[0] != "attar":
            parts = module.split(".")
            is_package = path.name == "__init__.py"
            place = Path(*parts) / path.name if is_package else Path(*parts).with_suffix(".py")
            found[place] = path
    return found


def list_own_files(workspace: Workspace) -> Iterator[Path]:
    """Yield the files in the recipe's folder that its settings name."""
    for bound in workspace.recipe.pipeline.slots.values():
        for kind, path in list_places(bound.stage).values():
            if path.is_relative_to(workspace.recipe.path.parent):
                yield from map(Path, LISTED[kind](str(path)))


def list_data(workspace: Workspace) -> Iterator[Path]:
    """Yield the data in the recipe's folder. Other data must be on every node by the same path."""
    stages = (bound.stage for bound in workspace.recipe.pipeline.slots.values())
    names = dict.fromkeys(stage.task for stage in stages if hasattr(stage, "task"))
    for name in names:
        for item in load_task(name).data():
            if isinstance(item, Path) and item.is_relative_to(workspace.recipe.path.parent):
                yield from filter(Path.is_file, item.rglob("*")) if item.is_dir() else [item]


def check_size(files: dict[Path, Path], home: Path) -> None:
    size = sum(path.stat().st_size for path in files.values())
    if size > MOST_BYTES:
        raise RecipeError(
            f"what the recipe needs of {home} has {size / 2**20:.0f} MB, and at most "
            f"{MOST_BYTES // 2**20} MB are shipped with a job; put its data where every node has "
            "them by the same path"
        )
