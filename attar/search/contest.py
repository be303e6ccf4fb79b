"""The contest: variants whose speeds are too close to tell apart are timed again, side by side.

The first timing takes engines in groups, minutes apart, so that what else runs on the machine may
change between two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from attar.proof.estimates.bounds import ConfidenceBounds
from attar.search.result import VariantResult


@dataclass
class Contest:
    """Which variants were timed again, and beside which."""

    met: set[frozenset[str]] = field(default_factory=set)
    """Pairs of names."""

    def invite(self, best: VariantResult, others: Sequence[VariantResult]) -> list[str]:
        """Return the names of the best variant and of all whose bounds of the speedup reach its
        own; none if it was timed beside each of them before."""
        close = [each.name for each in others if each.name != best.name and overlap(each, best)]
        pairs = {frozenset({best.name, name}) for name in close}
        if pairs <= self.met:
            return []
        self.met |= pairs
        return [best.name, *close]

    def was_joined_by(self, name: str) -> bool:
        return any(name in pair for pair in self.met)


def overlap(one: VariantResult, other: VariantResult) -> bool:
    """Whether the bounds of two speedups share a value."""
    first, second = one.bounds, other.bounds
    return first is not None and second is not None and share_value(first, second)


def share_value(one: ConfidenceBounds, other: ConfidenceBounds) -> bool:
    return one.low <= other.high and other.low <= one.high
