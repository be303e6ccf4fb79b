"""Rerun: the recipe of an unfinished bundle on a machine that can run its engine, so that the
engine itself is proven."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from attar.bundle import opening as bundles
from attar.bundle.checksums import FACTS, Checksums, sha256
from attar.bundle.finish import copy_sealed_files, fill_folder, require_runtime
from attar.bundle.verified import read_manifest
from attar.pipeline.core.errors import InvalidBundleError, RecipeError, suggest_name
from attar.pipeline.core.stage import Facts
from attar.pipeline.run import Record
from attar.recipes.workspace import Workspace, open_workspace
from attar.stages.package import Package
from attar.stages.slots import SLOTS


def rerun_recipe(
    path: str | Path,
    out: str | Path,
    recipe: str,
    store: Path,
    told: Callable[[Record], None] = lambda record: None,
    trusted: Path | None = None,
) -> Facts:
    """Run the target that made the bundle, reusing the store, and copy its bundle to ``out``; the
    facts of ``attar check``.

    ``told`` hears of every slot. Raises what ``finish`` does, what a slot that broke raised, and
    InvalidBundleError where the recipe makes another graph than the bundle holds, before anything
    is built from it.
    """
    bundle = Path(path)
    with bundles.open_unfinished(bundle, trusted) as found:
        require_runtime(bundle, found.manifest)
        with fill_folder(Path(out), bundle) as folder:
            new, seal = make_bundle(
                found.root, open_target_workspace(recipe, store, found.manifest.name), told
            )
            copy_sealed_files(new, folder, seal)
            return bundles.check_bundle(folder, allow_native=True)  # the recipe built it here


def open_target_workspace(recipe: str, store: Path, name: str) -> Workspace:
    """Of the one target that packages under this name."""
    slots = open_workspace(recipe, SLOTS, store).recipe.pipeline.slots
    names = {
        stage.name: slot
        for slot, bound in slots.items()
        if isinstance(stage := bound.stage, Package)
    }
    if name not in names:
        raise RecipeError(
            f"no target of {recipe} makes a bundle {name!r}; {suggest_name(name, names)}"
        )
    return open_workspace(recipe, SLOTS, store, targets=(names[name].partition(".")[0],))


def make_bundle(
    bundle: Path, workspace: Workspace, told: Callable[[Record], None]
) -> tuple[Path, Checksums]:
    """The bundle that this machine makes of the recipe."""
    (target,) = workspace.recipe.targets
    found: dict[str, Path] = {}
    for record in workspace.run.walk():
        told(record)
        if record.cause is not None:
            raise record.cause
        if record.path is not None:
            found[record.slot] = record.path
        if record.slot == f"{target}.model":
            check_same(bundle, found[record.slot])
    new = found[f"{target}.bundle"]
    return new, bundles.open_whole(new).seal


def check_same(bundle: Path, model: Path) -> None:
    """Raises InvalidBundleError where the recipe makes other graphs than the bundle holds."""
    ours, new = (
        {path.name: sha256(path) for path in folder.glob("*.onnx*")}
        for folder in (bundle / "graphs", model)
    )
    if ours != new:
        raise InvalidBundleError(
            f"the recipe makes another graph here than {bundle} holds"
            f"{compare_weight_bits(bundle, model)}; use the recipe and the store that "
            f"made it, package it anew with `attar run`, or finish what it holds, without --recipe"
        )


def compare_weight_bits(bundle: Path, model: Path) -> str:
    """How the weights differ, which a CPU decides where the recipe does not; nothing where they do
    not."""
    ours = read_manifest(bundle).lineage["model"].facts.get("weight_bits")
    here = json.loads((model / FACTS).read_bytes()).get("weight_bits")
    if here == ours:
        return ""
    reduced = str(ours == 7).lower()
    return (
        f": int8 weights of {here} bits, not {ours}, as follows from this CPU; "
        f"`reduce_range = {reduced}` makes those"
    )
