"""Largest: the few largest of many numbers, without sorting them all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def find_largest(scores: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Return the places of the largest scores of each row, ``[N, size] -> [N, count]``.

    The largest comes first, and of equal ones the first place. Only a row that has more scores like
    its last one than fit is sorted whole.
    """
    costs = -scores
    places = np.sort(np.argpartition(costs, count - 1, axis=1)[:, :count], axis=1)
    own = np.take_along_axis(costs, places, 1)
    best = np.take_along_axis(places, np.argsort(own, axis=1, kind="stable"), 1)
    is_tied = (~(costs > own.max(1, keepdims=True))).sum(1) > count
    best[is_tied] = np.argsort(costs[is_tied], axis=1, kind="stable")[:, :count]
    return best
