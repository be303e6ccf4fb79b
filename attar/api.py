"""``attar.run``: a whole recipe from a program or a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attar.pipeline.run import Record
from attar.pipeline.shared.store import open_store
from attar.recipes.workspace import STORE, open_workspace
from attar.stages.slots import SLOTS


def run(
    recipe: str | Path,
    *,
    store: str | Path = STORE,
    cache: str | Path | None = None,
    overrides: Iterable[str] = (),
    targets: Iterable[str] = (),
    device: str = "auto",
    against: str | Path | None = None,
    trusted: str | Path | None = None,
    store_trusted: str | Path | None = None,
    store_key: str | Path | None = None,
) -> list[Record]:
    """Make or reuse every slot of a recipe and return a record of each.

    ``store`` is a folder, or a URL as ``--store`` takes it. Then ``cache`` is the folder in front
    of it, and all files are fetched, so that the ``path`` of every record is there.
    ``overrides`` are ``slot.field=value`` with TOML values. ``against`` is the bundle in production
    that the engine is compared with; ``trusted`` is a file of keys, one of which must have signed
    that bundle. ``store_trusted`` is a file of keys, one of which must have signed what is taken
    from a store at a URL, ``store_key`` the key that signs what is published there. A mistake in
    the recipe raises RecipeError, a damaged bundle in production InvalidBundleError. A slot that
    failed or was refused is a record with an ``error``, and slots that depend on it are
    ``skipped``.
    """
    production, keys, *files = (
        None if path is None else Path(path)
        for path in (against, trusted, cache, store_trusted, store_key)
    )
    stored = open_store(store, *files)
    workspace = open_workspace(
        str(recipe), SLOTS, stored, overrides, targets, device, production, keys
    )
    slots = workspace.list_slots()
    workspace.check_production(slots)
    records = list(workspace.run.walk(slots))
    for record in records:
        if record.key is not None:
            stored.fetch(record.key)
    return records
