"""Bounds of an estimate, and the number of samples that would narrow them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

LEVEL = 0.95
"""The confidence of each bound."""
MAX_SAMPLE_SIZE = 10**9
"""A larger number of samples is not worth a recommendation."""


class ConfidenceBounds(NamedTuple):
    """A lower and an upper bound, each one-sided at ``LEVEL``."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated from samples, and its bounds."""

    value: float
    bounds: ConfidenceBounds


def estimate_sample_size(estimate: float, bound: float, limit: float, samples: int) -> int | None:
    """Return about how many samples would move ``bound`` to ``limit`` if the estimate stayed.

    Bounds approach the estimate with 1 / sqrt(samples). ``bound`` is the one on the limit's side.
    Return None if the estimate lies at the limit or more than 10^9 samples are needed.
    """
    if estimate == limit:
        return None
    factor = abs(bound - estimate) / abs(limit - estimate)
    return (
        math.ceil(samples * factor**2) if factor <= math.sqrt(MAX_SAMPLE_SIZE / samples) else None
    )
