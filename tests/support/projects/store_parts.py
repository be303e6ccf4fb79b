"""A key and a record, as a store holds them."""

from __future__ import annotations

KEY = "a" * 64
RECORD = {"slot": "x", "deciders": {}, "seconds": 1.0, "made": {"date": "2026-01-01T00:00:00+00:00", "machine": {}}}


def fail_if_waiting() -> None:
    """Fail the test: the store calls this when another process holds the lock."""
    raise AssertionError("nobody else holds the lock")
