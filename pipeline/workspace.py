"""Workspace: a recipe, a store and the code around them, ready to be planned or run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.pipeline import recipe as recipes
from attar.pipeline.errors import RecipeError, Rejected
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
        """These slots, each target's where they are made per target, and all that they need. None wanted: all.

        Raises RecipeError when targets are wanted and the recipe names none: such a run would prove nothing.
        """
        suffix = set(per_target) & set(wanted)
        if not self.recipe.targets and (suffix or not wanted):
            raise RecipeError(f"{self.recipe.path.name} names no target; write a section such as [targets.cpu]")
        if not wanted:
            return list(self.recipe.pipeline.slots)
        names = {f"{target}.{slot}" for target in self.recipe.targets for slot in suffix} | (set(wanted) - suffix)
        return self.recipe.pipeline.up_to(names)


def open_workspace(
    recipe: str,
    table: Sequence[Slot],
    store: Path = STORE,
    overrides: Iterable[str] = (),
    targets: Iterable[str] = (),
    device: str = "auto",
    against: Path | None = None,
    trusted: Path | None = None,
) -> Workspace:
    """Load the recipe and put its folder first on the import path. Writes nothing. Raises RecipeError."""
    path = recipes.find(recipe)
    move_in(path.parent)
    stored = Store(store)
    code = Fingerprint(path.parent, stored.root / "code.json")
    loaded = recipes.load(path, table, overrides, targets, device, code, against, trusted)
    return Workspace(loaded, stored, Run(loaded.pipeline, stored, code, loaded.name))


_homes: set[Path] = set()
"""Recipes' folders that this process has run in."""


def move_in(home: Path) -> None:
    """Make this folder the first of the import path, and forget what was imported from a recipe's folder before.

    Keys are computed from files. A module that is still in memory may be an older version, or another recipe's file of
    the same name, and its results would be stored under the wrong key.
    """
    _homes.add(home)
    sys.path[:] = [str(home), *(entry for entry in sys.path if Path(entry) not in _homes)]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        inside = file is not None and "site-packages" not in file and any(Path(file).is_relative_to(each) for each in _homes)
        if inside and name != "__main__" and name.partition(".")[0] != "attar":
            del sys.modules[name]
    importlib.invalidate_caches()


def exit_code(records: Iterable[Record], *, require_all: bool = False) -> int:
    """0 when all is done; 1 when a stage broke; 3 when a target failed, is undecided or was refused.

    ``require_all``: also when one was not run here.
    """
    codes = {record.exit_code for record in records}
    bad = ("failed", "undecided", "not run here") if require_all else ("failed", "undecided")
    if any(record.slot.endswith(".verdict") and record.facts.get("verdict") in bad for record in records):
        codes.add(Rejected.exit_code)
    return next((code for code in (1, 2, 4, 3) if code in codes), 0)
