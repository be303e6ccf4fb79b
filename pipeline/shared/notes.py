"""Notes of a shared store: what recipes used last, and what searches on a cluster tell."""

from __future__ import annotations

from attar.pipeline.shared.remote_files import RemoteFiles
from attar.pipeline.store.used_keys import read_used_keys

MESSAGES = "cluster"
"""The folder of what a search and its nodes tell each other while it runs."""


def list_used(remote: RemoteFiles) -> set[str]:
    """Return the keys that a recipe of any machine used last. Raises StoreError."""
    names = [f"recipes/{file.name}" for file in remote.list("recipes")]
    found = zip(names, remote.read_all(names), strict=True)
    return read_used_keys({name: note for name, note in found if note is not None}, remote.url)
