"""Where the evidence of a gate lies: a row of a forest plot, in which all rows share the line of the limit."""

from __future__ import annotations

from dataclasses import dataclass

from attar.proof.report.gate import Gate

LIMIT = 36.0
"""The limit's place from the left, in hundredths of the width; to the right of it lies what keeps the promise."""
OUTSIDE, INSIDE = 32.0, 58.0
"""The room on both sides that the evidence may take."""


@dataclass(frozen=True)
class Mark:
    """Hundredths of the width: the estimate, and the ends of its whisker; ``low == high`` where it has none."""

    at: float
    low: float
    high: float


def mark(gate: Gate) -> Mark | None:
    """Each gate on a scale of its own that fills the room; None where there is no distance to a limit."""
    if gate["measured"] is None or not (side := sign(gate["promise"])):
        return None
    points = [side * (value - gate["limit"]) for value in (gate["measured"], *(gate["bounds"] or ()))]
    scales = [room / reach for room, reach in ((INSIDE, max(points)), (OUTSIDE, -min(points))) if reach > 0]
    if not scales:
        return None
    at, *ends = (LIMIT + min(scales) * point for point in points)
    return Mark(at, min(ends, default=at), max(ends, default=at))


def sign(promise: str) -> int:
    """1 where more is better, -1 where less is, 0 for a promise that is no limit."""
    return 1 if promise.startswith("at least") else -1 if promise.startswith("at most") else 0
