"""Where the student started from, when it was not from nothing."""

from __future__ import annotations

from collections.abc import Sequence

from attar.proof.report.record import Record

SHOWN = 3
"""Tensors that are named; the others are counted."""


def describe_start(records: Sequence[Record]) -> str | None:
    """Return what the student started from, such as ``The student started from 0a1b2c3d4e5f: 12
    tensors, 81 % of its parameters.``

    Return None if it started from nothing.
    """
    start = next((record for record in records if "started_from" in record.facts), None)
    if start is None:
        return None
    facts = start.facts["started_from"]
    other = facts["other"]
    more = f"; and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
    missing = f" Not from it: {'; '.join(other[:SHOWN])}{more}." if other else ""
    return (
        f"The {start.slot} started from {facts['key'][:12]}: {facts['matched']} tensors, "
        f"{100 * facts['parameters']:.0f} % of its parameters.{missing}"
    )
