"""Speed comparisons: variants that a first timing cannot tell apart, timed in the same rounds.

A first timing takes engines in groups, one after the other. What else runs on the machine may
change between two groups, and then the slower of two variants can look faster, whatever the bounds
within each group say.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from attar.search.result import VariantResult

MARGIN = 1.25
"""How much faster one variant may look than another that is as fast, where they were not timed in
the same rounds. Beside two trainings on two cores it was 1.2."""


@dataclass
class SpeedComparisons:
    """The faster of two variants, where both were timed in the same rounds."""

    faster: dict[frozenset[str], str] = field(default_factory=dict)
    """Its name, by the names of both."""

    def list_doubtful(
        self, best: VariantResult, others: Sequence[VariantResult]
    ) -> list[VariantResult]:
        """Return the variants whose bounds of the speedup reach those of the best one within the
        margin, and that were not compared with it: the fastest first."""
        found = [
            each
            for each in others
            if each.name != best.name
            and have_common_speed(each, best, MARGIN)
            and self.get_faster(each.name, best.name) is None
        ]
        return sorted(found, key=lambda each: -(each.speedup or 0.0))

    def record(self, speeds: Mapping[str, float]) -> None:
        """Keep what variants that were timed in the same rounds say of each other. What an earlier
        timing said of two of them stays, so that nothing is compared without end."""
        for one, other in itertools.combinations(speeds, 2):
            faster = one if speeds[one] > speeds[other] else other
            self.faster.setdefault(frozenset({one, other}), faster)

    def get_faster(self, one: str, other: str) -> str | None:
        """Return the faster of two variants; None if they were not timed in the same rounds."""
        return self.faster.get(frozenset({one, other}))


def have_common_speed(one: VariantResult, other: VariantResult, margin: float = 1.0) -> bool:
    """Whether the bounds of both speedups hold one value, if either speedup may be so many times as
    large."""
    if one.bounds is None or other.bounds is None:
        return False
    reaches = one.bounds.low <= margin * other.bounds.high
    return reaches and other.bounds.low <= margin * one.bounds.high
