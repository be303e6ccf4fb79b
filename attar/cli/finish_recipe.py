"""Finish a bundle by its recipe on a machine that can run its engine, so the engine is proven."""

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
from attar.pipeline.store.store import Store
from attar.recipes.workspace import Workspace, open_workspace
from attar.stages.package.stage import Package
from attar.stages.slots import SLOTS


def rerun_recipe(
    path: str | Path,
    out: str | Path,
    recipe: str,
    store: Store | Path,
    on_record: Callable[[Record], None] = lambda record: None,
    trusted: Path | None = None,
) -> Facts:
    """Run the target that made the bundle, copy its bundle to ``out``, and return its facts.

    They are those of ``attar check``. ``on_record`` is called for every slot. Raises what
    ``finish`` raises, what a failed slot raised, and InvalidBundleError if the recipe makes another
    graph than the bundle holds, before anything is built from it.
    """
    bundle = Path(path)
    with bundles.open_unfinished(bundle, trusted) as unfinished:
        require_runtime(bundle, unfinished.manifest)
        with fill_folder(Path(out), bundle) as folder:
            workspace = open_target_workspace(recipe, store, unfinished.manifest.name)
            new, seal = make_bundle(unfinished.root, workspace, on_record)
            copy_sealed_files(new, folder, seal)
            return bundles.check_bundle(folder, allow_native=True)  # the recipe built it here


def open_target_workspace(recipe: str, store: Store | Path, name: str) -> Workspace:
    """Return the workspace of the one target that packages under this name."""
    targets: dict[str, str] = {}
    for slot, bound in open_workspace(recipe, SLOTS, store).recipe.pipeline.slots.items():
        if isinstance(bound.stage, Package):
            targets[bound.stage.name] = slot.partition(".")[0]
    if name not in targets:
        raise RecipeError(
            f"no target of {recipe} makes a bundle {name!r}; {suggest_name(name, targets)}"
        )
    return open_workspace(recipe, SLOTS, store, targets=(targets[name],))


def make_bundle(
    bundle: Path, workspace: Workspace, on_record: Callable[[Record], None]
) -> tuple[Path, Checksums]:
    """Make this machine's bundle of the recipe, and return it with its checksums."""
    bindings = workspace.recipe.pipeline.slots
    (last,) = (slot for slot, bound in bindings.items() if isinstance(bound.stage, Package))
    paths: dict[str, Path] = {}
    for record in workspace.run.walk():
        on_record(record)
        if record.cause is not None:
            raise record.cause
        if record.path is not None and record.key is not None:
            paths[record.slot] = record.path
            if record.slot in (last, bindings[last].inputs["model"]):
                workspace.store.fetch(record.key)
        if record.slot == bindings[last].inputs["model"]:
            check_same_graphs(bundle, paths[record.slot])
    return paths[last], bundles.open_whole(paths[last]).seal


def check_same_graphs(bundle: Path, model: Path) -> None:
    """Raises InvalidBundleError if the recipe makes other graphs than the bundle holds."""
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
    """Return how the bits of int8 weights differ, or an empty string.

    The CPU decides them unless the recipe does.
    """
    ours = read_manifest(bundle).lineage["model"].facts.get("weight_bits")
    here = json.loads((model / FACTS).read_bytes()).get("weight_bits")
    if here == ours:
        return ""
    reduced = str(ours == 7).lower()
    return (
        f": int8 weights of {here} bits, not {ours}, as follows from this CPU; "
        f"`reduce_range = {reduced}` makes those"
    )
