"""Workspace: a recipe, a store and the code around them, ready to be planned or run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.pipeline import recipe as recipes
from attar.pipeline.errors import RecipeError
from attar.pipeline.fingerprint import Fingerprint
from attar.pipeline.recipe import Recipe, Slot
from attar.pipeline.run import Record, Run
from attar.pipeline.store import Store

STORE = Path(".attar")


@dataclass(frozen=True)
class Workspace:
    recipe: Recipe
    store: Store
    run: Run

    @property
    def output(self) -> Path:
        """Where the latest report and links to the latest bundles are."""
        return self.store.root / "latest" / self.recipe.title

    def slots(self, wanted: Sequence[str], per_target: Iterable[str]) -> list[str]:
        """These slots, each target's where they are made per target, and all that they need. None wanted: all."""
        if not wanted:
            return list(self.recipe.pipeline.slots)
        suffix = set(per_target) & set(wanted)
        if suffix and not self.recipe.targets:
            raise RecipeError(f"{self.recipe.path.name} names no target; write a section such as [targets.cpu]")
        names = {f"{target}.{slot}" for target in self.recipe.targets for slot in suffix} | (set(wanted) - suffix)
        return self.recipe.pipeline.up_to(names)


def open_workspace(
    recipe: str,
    table: Sequence[Slot],
    store: Path = STORE,
    overrides: Iterable[str] = (),
    targets: Iterable[str] = (),
    device: str = "auto",
) -> Workspace:
    """Load the recipe and put its folder first on the import path. Writes nothing. Raises RecipeError."""
    path = recipes.find(recipe)
    home = str(path.parent)
    if home in sys.path:
        sys.path.remove(home)
    sys.path.insert(0, home)
    stored = Store(store)
    code = Fingerprint(path.parent, stored.root / "code.json")
    loaded = recipes.load(path, table, overrides, targets, device, code)
    return Workspace(loaded, stored, Run(loaded.pipeline, stored, code, loaded.name))


def exit_code(records: Iterable[Record]) -> int:
    """0 when all is done; 1 when a stage broke; 3 when a target was refused, failed or is undecided."""
    codes = {record.exit_code for record in records}
    return next((code for code in (1, 2, 4, 3) if code in codes), 0)
