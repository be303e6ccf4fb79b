"""The notes of the keys that recipes used last, which decide what is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from attar.pipeline.core.errors import StoreError

NOTE = TypeAdapter(dict[str, str])
"""The keys that one recipe used last, by slot."""


def read_last_keys(note: Any) -> dict[str, str]:
    """Return the keys of a note by slot; none if it is missing or damaged: a plan only says less of
    what changed."""
    try:
        return NOTE.validate_python(note)
    except ValidationError:
        return {}


def read_used_keys(notes: Mapping[str, bytes], place: str) -> set[str]:
    """Return the keys in these notes, by the names of their files in ``place``.

    Raises StoreError for a note that is damaged: what its recipe needs is not known.
    """
    used: set[str] = set()
    for name, note in notes.items():
        try:
            used.update(NOTE.validate_json(note).values())
        except ValidationError as error:
            raise StoreError(
                f"{name} in {place} is no list of keys, so nothing there is deleted; run its "
                "recipe again, or delete that file"
            ) from error
    return used
