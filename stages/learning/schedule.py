"""Schedules: the learning rate, as a share of the largest, at a progress from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

RISE_SHARE, FIRST_RATE, LAST_RATE = 0.3, 1 / 25, 1 / 250_000
WARMUP_SHARE = 0.05


def one_cycle(progress: float) -> float:
    """Rise from 1/25 to 1 in the first 30 %, then fall to almost 0, along cosines.

    Smith and Topin 2019, arXiv:1708.07120.
    """
    if progress < RISE_SHARE:
        return interpolate_cosine(FIRST_RATE, 1.0, progress / RISE_SHARE)
    return interpolate_cosine(1.0, LAST_RATE, (progress - RISE_SHARE) / (1 - RISE_SHARE))


def warmup_cosine(progress: float) -> float:
    """Rise linearly in the first 5 %, then fall to 0 along half a cosine.

    Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5.
    """
    if progress < WARMUP_SHARE:
        return max(progress, 1e-3) / WARMUP_SHARE
    return interpolate_cosine(1.0, 0.0, (progress - WARMUP_SHARE) / (1 - WARMUP_SHARE))


def interpolate_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "cosine": warmup_cosine,
}
