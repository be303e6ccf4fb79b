"""Failures of the store: they say nothing of a variant, and end a search, which goes on later."""

from __future__ import annotations

from attar.pipeline.core.errors import StoreError
from attar.pipeline.run import Record


def find_store_failure(error: BaseException | None) -> StoreError | None:
    """Return the failure of the store that led to an error; None if something else did."""
    while error is not None and not isinstance(error, StoreError):
        error = error.__cause__
    return error


def check_store_failure(record: Record) -> None:
    """Raises StoreError if a slot broke because the store failed."""
    failure = find_store_failure(record.cause)
    if failure is not None:
        raise StoreError(record.error) from failure
