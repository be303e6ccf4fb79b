"""Where the student started from, when it was not from nothing."""

from __future__ import annotations

from collections.abc import Sequence

from attar.proof.report.record import Record

SHOWN = 3
"""Tensors that are named; the others are counted."""


def describe_start(records: Sequence[Record]) -> str | None:
    """``The student started from 0a1b2c3d4e5f: 12 tensors, 81 % of its parameters. Not from it: ...``; None: from nothing."""
    for record in records:
        if found := record.facts.get("started_from"):
            other = found["other"]
            named = "; ".join(other[:SHOWN]) + (
                f"; and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
            )
            return (
                f"The {record.slot} started from {found['key'][:12]}: {found['matched']} tensors, "
                f"{100 * found['parameters']:.0f} % of its parameters.{f' Not from it: {named}.' if other else ''}"
            )
    return None
