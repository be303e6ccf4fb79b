"""Workspace: a recipe, a store and the code around them, ready to be planned or run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attar.pipeline.core.errors import GateError, RecipeError, suggest_name
from attar.pipeline.core.import_path import put_first_on_path
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.recipe import recipe as recipes
from attar.pipeline.recipe.pair import SUFFIX
from attar.pipeline.recipe.recipe import Recipe
from attar.pipeline.recipe.slot import Slot
from attar.pipeline.run import Record, Run
from attar.pipeline.store.store import Store
from attar.proof.artifacts import Verdict

STORE = Path(".attar")
SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class Workspace:
    recipe: Recipe
    store: Store
    run: Run
    table: Sequence[Slot]

    @property
    def output(self) -> Path:
        """Folder of the latest report and of copies of the latest bundles."""
        return self.store.root / "latest" / self.recipe.title

    def list_slots(self, step: str | None = None) -> list[str]:
        """Return the slots of a step, and all that they need; all slots if no step is named.

        Raises RecipeError if they belong to targets and the recipe has none: such a run would prove
        nothing.
        """
        wanted = [slot for slot in self.table if step is None or slot.step == step]
        own = {slot.name for slot in wanted if slot.per_target}
        targets = self.recipe.targets
        if own and not targets:
            raise RecipeError(
                f"{self.recipe.path.name} names no target; write a section such as [targets.cpu]"
            )
        if step is None:
            return list(self.recipe.pipeline.slots)
        shared = {slot.name for slot in wanted if not slot.per_target}
        owners = [*targets, *(f"{target}{SUFFIX}" for target in targets)]
        return self.recipe.pipeline.up_to(
            shared | {f"{owner}.{name}" for owner in owners for name in own}
        )

    def list_production(self, slots: Iterable[str]) -> list[tuple[Path, Path | None]]:
        """Return the bundles in production that these slots compare with, each with the file of
        keys that must have signed it."""
        from attar.stages.unpack import Unpack

        stages = [self.recipe.pipeline.slots[slot].stage for slot in slots]
        return [
            (stage.against, stage.trusted)
            for stage in stages
            if isinstance(stage, Unpack) and stage.against
        ]

    def check_production(self, slots: Iterable[str]) -> None:
        """Open the bundles in production before anything is made. Raises InvalidBundleError if one
        is damaged."""
        from attar.bundle.opening import open_whole

        for bundle, trusted in self.list_production(slots):
            open_whole(bundle, trusted=trusted).close()


def find_recipe(recipe: str) -> Path:
    """Return the file of a recipe, which is a path or the name of a shipped recipe. Raises
    RecipeError."""
    path = Path(recipe)
    if path.is_file():
        return path.absolute()
    shipped = SHIPPED / f"{recipe}.toml"
    if shipped.is_file():
        return shipped
    beside = (path if path.is_dir() else path.parent).glob("*.toml")
    known = suggest_name(recipe, [*list_shipped_recipes(), *map(str, beside)])
    raise RecipeError(f"there is no file {recipe!r} and no shipped recipe of that name; {known}")


def list_shipped_recipes() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def open_workspace(
    recipe: str,
    table: Sequence[Slot],
    store: Store | Path = STORE,
    overrides: Iterable[str] = (),
    targets: Iterable[str] = (),
    device: str = "auto",
    against: Path | None = None,
    trusted: Path | None = None,
    name: str | None = None,
    text: str | None = None,
) -> Workspace:
    """Load the recipe and put its folder first on the import path. Writes nothing.

    ``name`` is the one under which the store remembers it, if not by its path; ``text`` counts in
    the place of what its file has. Raises RecipeError.
    """
    path = find_recipe(recipe)
    put_first_on_path(path.parent)
    stored = store if isinstance(store, Store) else Store(store)
    code = Fingerprint(path.parent, stored.root / "code.json")
    loaded = recipes.load_recipe(
        path, table, overrides, targets, device, code, against, trusted, text
    )
    if name is not None:
        loaded = replace(loaded, name=name)
    return Workspace(loaded, stored, Run(loaded.pipeline, stored, code, loaded.name), table)


def choose_exit_code(records: Iterable[Record], *, require_all: bool = False) -> int:
    """Return 0 if all is done, 1 if a stage broke, 3 if a target failed, is undecided or was
    refused.

    With ``require_all`` also 3 if a target was not run on this machine.
    """
    codes = {record.exit_code for record in records}
    bad = ("failed", "undecided", "not run here") if require_all else ("failed", "undecided")
    verdicts = [record.facts.get("verdict") for record in records if record.makes is Verdict]
    if any(verdict in bad for verdict in verdicts):
        codes.add(GateError.exit_code)
    return next((code for code in (1, 2, 4, 3) if code in codes), 0)
