"""Notes of a shared store: what recipes used last, and what searches on a cluster tell."""

from __future__ import annotations

import json

from attar.pipeline.core.errors import StoreError
from attar.pipeline.shared.remote_files import RemoteFiles

TOLD = "cluster"
"""The folder of what a search and its nodes tell each other while it runs."""


def list_used(remote: RemoteFiles) -> set[str]:
    """Return the keys that a recipe of any machine used last. Raises StoreError."""
    names = [file.name for file in remote.list("recipes")]
    notes = remote.read_all([f"recipes/{name}" for name in names])
    keys: set[str] = set()
    for name, note in zip(names, notes, strict=True):
        try:
            keys.update(json.loads(note or b"{}").values())
        except (ValueError, TypeError, AttributeError) as error:
            raise StoreError(
                f"recipes/{name} in {remote.url} is no list of keys, so nothing there is deleted; "
                "run its recipe again, or delete that file"
            ) from error
    return keys
