"""The range in which int8 keeps most of the information of a histogram.

Migacz 2017, "8-bit inference with TensorRT" (GTC, S7310), by the rules of ONNX Runtime's
``EntropyCalibrater``: both find the same range in the same bins.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from attar.engines.calibration.histogram import BINS, Floats, Histogram, Range

LEVELS = 128  # into which the bins are merged
SMOOTH = 1e-4  # what an empty bin counts as in a divergence

Indices = npt.NDArray[np.intp]


def find_entropy_range(histogram: Histogram) -> Range:
    """Return the range with the least Kullback-Leibler divergence.

    It is the divergence between the bins and what is left of them when they are merged into
    ``LEVELS``. The candidates lie symmetric about 0, before the extremes cut them, and have at
    least ``LEVELS`` bins.
    """
    counts, width = center_bins(histogram)
    middle = len(counts) // 2
    reach = np.arange(LEVELS // 2, middle + 1)
    start, end = middle - reach, np.minimum(middle + reach + 1, len(counts))
    least = int(np.argmin(compute_divergences(counts, start, end)))
    return histogram.clip_range(
        (int(start[least]) - middle) * width, (int(end[least]) - middle) * width
    )


def center_bins(histogram: Histogram) -> tuple[Floats, float]:
    """Return the counts, with as many bins below 0 as above, and the bins' width.

    There are at most ``BINS`` bins, and each level has as many as the others.
    """
    filled, width = np.flatnonzero(histogram.counts), histogram.width
    places = filled + histogram.first
    while (half := max(int(places[-1]) + 1, -int(places[0]))) > BINS // 2:
        places, width = places >> 1, width * 2
    half += -half % (LEVELS // 2)
    counts: Floats = np.bincount(places + half, histogram.counts[filled], 2 * half).astype(
        np.float64
    )
    return counts, width


def compute_divergences(counts: Floats, start: Indices, end: Indices) -> Floats:
    """Return KL(P ‖ Q) for each of these windows [n] of the bins.

    P is the window, with what lies outside in its first and last bin. Q has ``LEVELS`` parts of
    equally many bins, in each of which the window's own count is spread evenly over the bins that P
    fills, rounded down. Bins that are left over are empty; their count is in the last part. Sums
    over bins are differences of running sums, so a window costs the same whatever its size.
    """
    merged = (end - start) // LEVELS
    bounds = np.column_stack(
        [start[:, None] + merged[:, None] * np.arange(LEVELS + 1), end]
    )  # [n, LEVELS + 2]
    sizes, outermost = np.diff(bounds), (counts[start], counts[end - 1])
    grown = (
        outermost[0] + sum_prefixes(counts)[start],
        outermost[1] + sum_prefixes(counts)[-1] - sum_prefixes(counts)[end],
    )

    def parts(value: Callable[[Floats], Floats]) -> Floats:
        """Return sums over the bins of P of a value of their count [n, LEVELS + 1].

        There is one for each part of each window.
        """
        found: Floats = np.diff(sum_prefixes(value(counts))[bounds])
        found[:, 0] += value(grown[0]) - value(outermost[0])
        found[np.arange(len(end)), LEVELS - (sizes[:, -1] == 0)] += value(grown[1]) - value(
            outermost[1]
        )
        return found

    p, filled = parts(lambda count: count), parts(lambda count: (count > 0).astype(np.float64))
    q = spread_counts(np.diff(sum_prefixes(counts)[bounds]), filled)
    less_p, less_q = (
        compute_smoothing(filled.sum(1), end - start),
        compute_smoothing(((q > 0) * sizes).sum(1), end - start),
    )
    log_q = np.log(np.where(q > 0, q - less_q[:, None], SMOOTH))
    smoothed = p - less_p[:, None] * filled + SMOOTH * (sizes - filled)
    # c log c for c a little less than a count, to first order in the difference; then empty bins
    own = parts(lambda count: count * log_counts(count)) - less_p[:, None] * (
        parts(log_counts) + filled
    )
    own += SMOOTH * np.log(SMOOTH) * (sizes - filled)
    total, kept = counts.sum(), (q * sizes).sum(1)
    found: Floats = (own - smoothed * log_q).sum(1) / total + np.log(np.maximum(kept, 1) / total)
    return np.where(kept > 0, found, np.inf)


def sum_prefixes(values: Floats) -> Floats:
    """Return the sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def log_counts(count: Floats) -> Floats:
    """Return the logarithm, 0 for an empty bin."""
    return np.log(np.maximum(count, 1))


def spread_counts(held: Floats, filled: Floats) -> Floats:
    """Return the count of a bin in Q.

    ``held`` are the counts of the windows' parts [n, LEVELS + 1], ``filled`` the number of bins
    that P fills in them.
    """
    sums = held[:, :LEVELS].copy()
    sums[:, -1] += held[:, LEVELS]
    even = np.floor(np.where(filled[:, :LEVELS] > 0, sums / np.maximum(filled[:, :LEVELS], 1), 0))
    return np.column_stack([even, np.zeros(len(even))])


def compute_smoothing(filled: Floats, size: Indices) -> Floats:
    """Return what each filled bin gives, so that each empty bin counts as ``SMOOTH``."""
    return SMOOTH * (size - filled) / np.maximum(filled, 1)
