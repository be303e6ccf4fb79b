"""Where the evidence of a gate lies: a row of a forest plot. All rows share the limit's line."""

from __future__ import annotations

from dataclasses import dataclass

from attar.proof.gate import Gate
from attar.proof.report.gate_formatting import COUNTED_UNITS

LIMIT_PERCENT = 36.0
"""The place of the limit, in percent of the width. What keeps the limit lies to the right of it."""
OUTSIDE_PERCENT, INSIDE_PERCENT = 32.0, 58.0
"""The widths that the evidence may take on both sides."""


@dataclass(frozen=True)
class Mark:
    """The estimate and the ends of its whisker, in percent of the width.

    ``low == high`` if it has no whisker.
    """

    at: float
    low: float
    high: float


def place_mark(gate: Gate) -> Mark | None:
    """Return the mark of a gate on a scale of its own that fills the width.

    Return None if there is no distance to a limit.
    """
    comparison = gate.comparison
    if comparison.value is None or comparison.metric in COUNTED_UNITS:
        return None
    margins = [gate.margin_of(value) for value in (comparison.value, *(comparison.bounds or ()))]
    reaches = ((INSIDE_PERCENT, max(margins)), (OUTSIDE_PERCENT, -min(margins)))
    scales = [width / reach for width, reach in reaches if reach > 0]
    if not scales:
        return None
    at, *ends = (LIMIT_PERCENT + min(scales) * margin for margin in margins)
    return Mark(at, min(ends, default=at), max(ends, default=at))
