"""The range of a tensor for int8, computed from the histogram of its values.

A narrower range has finer steps, and cuts off more. The methods weigh that differently. None makes
room for more than was seen, and 0 is no part of a range that is all on one side of it: what needs a
0 extends it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from attar.engines.calibration import histogram as stored
from attar.engines.calibration.entropy import find_entropy_range
from attar.engines.calibration.histogram import Histogram, Range
from attar.engines.calibration.mse import find_mse_range
from attar.pipeline.core.errors import StageError, suggest_name

PERCENTILE = 99.99


def compute_ranges(file: Path, method: str, percent: float) -> dict[str, Range]:
    """Return the range of every tensor whose histogram is in ``file``.

    Raises StageError for an unknown method.
    """
    methods: dict[str, Callable[[Histogram], Range]] = {
        "minmax": find_minmax_range,
        "percentile": partial(find_percentile_range, percent=percent),
        "entropy": find_entropy_range,
        "mse": find_mse_range,
    }
    if method not in methods:
        raise StageError(f"there is no range method {method!r}; {suggest_name(method, methods)}")
    histograms, _ = stored.load_histograms(file)
    return {name: methods[method](histogram) for name, histogram in histograms.items()}


def find_minmax_range(histogram: Histogram) -> Range:
    """Return the range of all values."""
    return histogram.low, histogram.high


def find_percentile_range(histogram: Histogram, percent: float = PERCENTILE) -> Range:
    """Return a range of at least ``percent`` of the values.

    As much of the others is cut off on either side, to a bin, as by ONNX Runtime's
    ``PercentileCalibrater`` that is not symmetric.
    """
    if not 0 < percent <= 100:
        raise StageError(
            f"a percentile of {percent} was asked for; give more than 0 and at most 100, such as "
            f"{PERCENTILE}"
        )
    seen = np.cumsum(histogram.counts)
    cut = (100 - percent) / 200 * float(seen[-1])
    low, high = np.searchsorted(seen, cut, "right"), np.searchsorted(seen, seen[-1] - cut, "left")
    return histogram.clip_range(float(histogram.edges[low]), float(histogram.edges[high + 1]))
