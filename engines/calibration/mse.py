"""The range in which the values of a histogram have the least mean squared error in 8 bits."""

from __future__ import annotations

import numpy as np

from attar.engines.calibration.histogram import Floats, Histogram, Range

STEPS = 255
"""Of 8 bits."""
CANDIDATES = 128
"""Ends that are compared at a time."""
ROUNDS = 8


def find_mse_range(histogram: Histogram) -> Range:
    """Return the range with the least mean squared error of 8 bits.

    Each end in turn is moved to where the error is least, until neither moves. Banner et al. 2019,
    arXiv:1810.05723, minimize the same error, for a distribution that they assume.
    """
    low, high = histogram.low, histogram.high
    shares = np.arange(1, CANDIDATES + 1) / CANDIDATES
    for _ in range(ROUNDS):
        before = low, high
        if high > 0:
            ends = np.maximum(shares * histogram.high, low)
            high = float(ends[np.argmin(compute_errors(histogram, low, ends))])
        if low < 0:
            ends = np.minimum(shares * histogram.low, high)
            low = float(ends[np.argmin(compute_errors(histogram, ends, high))])
        if before == (low, high):
            break
    return low, high


def compute_errors(histogram: Histogram, low: Floats | float, high: Floats | float) -> Floats:
    """Return the mean squared error of 8 bits for each of these ranges [n], extended to 0.

    Every value counts as the middle of its bin.
    """
    filled = np.flatnonzero(histogram.counts)
    values = (histogram.first + filled + 0.5) * histogram.width  # [bins]
    lows, highs = (
        np.atleast_1d(np.asarray(end, np.float64))[:, None]
        for end in (np.minimum(low, 0), np.maximum(high, 0))
    )
    step = np.maximum((highs - lows) / STEPS, np.finfo(np.float64).tiny)
    rounded = np.rint(np.clip(values, lows, highs) / step) * step  # [n, bins]
    errors: Floats = np.square(rounded - values) @ histogram.counts[filled] / histogram.counts.sum()
    return errors
