"""The notes of the keys that recipes used last, which decide what is deleted."""

from __future__ import annotations

import json
from collections.abc import Mapping

from attar.pipeline.core.errors import StoreError


def read_used_keys(notes: Mapping[str, bytes], place: str) -> set[str]:
    """Return the keys in these notes, by the names of their files in ``place``.

    Raises StoreError for a note that is damaged: what its recipe needs is not known.
    """
    used: set[str] = set()
    for name, note in notes.items():
        try:
            used.update(json.loads(note).values())
        except (ValueError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{name} in {place} is no list of keys, so nothing there is deleted; run its "
                "recipe again, or delete that file"
            ) from error
    return used
