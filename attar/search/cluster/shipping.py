"""Shipping: the files of a recipe that a node gets with its jobs.

What is shipped is what counts in a key and lies in the recipe's folder: the recipe, the code that
it names, its files and its data. Code that is not installed is shipped from wherever it is.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from attar.models.task import load_task
from attar.pipeline.core.errors import RecipeError
from attar.pipeline.keys.deciders import LISTED, list_code_names, list_places
from attar.recipes.workspace import SHIPPED, Workspace
from attar.search.recipe_search import RecipeSearch

MOST_BYTES = 256 * 2**20
"""Of all shipped files together. Ray keeps them in the memory of its head."""


def ship_recipe(search: RecipeSearch, folder: Path) -> str:
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
        files |= find_own_files(opened)
    files |= find_data(workspace)
    check_size(files, recipe.parent)
    for place, path in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / place)
    (folder / recipe.name).unlink()  # it may have been edited since, and may be read-only
    (folder / recipe.name).write_text(search.text, encoding="utf-8")
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


def find_own_files(workspace: Workspace) -> dict[Path, Path]:
    """Return the files in the recipe's folder that its settings name, by their place in it."""
    home = workspace.recipe.path.parent
    found: dict[Path, Path] = {}
    for bound in workspace.recipe.pipeline.slots.values():
        for kind, path in list_places(bound.stage).values():
            if is_inside(path, home):
                files = map(Path, LISTED[kind](str(path)))
                found |= {find_place(file, home): file for file in files}
    return found


def find_data(workspace: Workspace) -> dict[Path, Path]:
    """Return the data in the recipe's folder, by their place in it. Other data must be on every
    node by the same path."""
    home = workspace.recipe.path.parent
    found: dict[Path, Path] = {}
    stages = (bound.stage for bound in workspace.recipe.pipeline.slots.values())
    names = dict.fromkeys(stage.task for stage in stages if hasattr(stage, "task"))
    for name in names:
        for item in load_task(name).data():
            if isinstance(item, Path) and is_inside(item, home):
                listed = filter(Path.is_file, item.rglob("*")) if item.is_dir() else [item]
                found |= {find_place(file, home): file for file in listed}
    return found


def is_inside(path: Path, home: Path) -> bool:
    """Whether a path lies in the recipe's folder.

    Raises RecipeError for one that leads out of it by "..": no node has it there.
    """
    if find_place(path, home).parts[:1] != ("..",):
        return True
    if path.is_relative_to(home):
        raise RecipeError(
            f"{path} lies outside of {home}, the recipe's folder, which alone is shipped to the "
            "nodes; move it there, or name it by an absolute path that every node has"
        )
    return False


def find_place(path: Path, home: Path) -> Path:
    """Return the path as seen from the recipe's folder."""
    return Path(os.path.relpath(path, home))


def check_size(files: dict[Path, Path], home: Path) -> None:
    size = sum(path.stat().st_size for path in files.values())
    if size > MOST_BYTES:
        raise RecipeError(
            f"what the recipe needs of {home} has {size / 2**20:.0f} MB, and at most "
            f"{MOST_BYTES // 2**20} MB are shipped with a job; put its data where every node has "
            "them by the same path"
        )
