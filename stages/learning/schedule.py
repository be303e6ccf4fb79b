"""Schedules: the learning rate, as a share of the largest, at a progress from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

FIRST_RATE, LAST_RATE = 1 / 25, 1 / 250_000


def one_cycle(progress: float, warmup: float = 0.3) -> float:
    """Rise from 1/25 to 1 in the first ``warmup`` of all steps, then fall to almost 0, along
    cosines.

    Smith and Topin 2019, arXiv:1708.07120.
    """
    if progress < warmup:
        return interpolate_cosine(FIRST_RATE, 1.0, progress / warmup)
    return interpolate_cosine(1.0, LAST_RATE, (progress - warmup) / (1 - warmup))


def warmup_cosine(progress: float, warmup: float = 0.05) -> float:
    """Rise linearly in the first ``warmup`` of all steps, then fall to 0 along half a cosine.

    Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5.
    """
    if progress < warmup:
        return max(progress, 1e-3) / max(warmup, 1e-3)
    return interpolate_cosine(1.0, 0.0, (progress - warmup) / (1 - warmup))


def interpolate_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "one-cycle": one_cycle,
    "cosine": warmup_cosine,
}


def compute_rate(schedule: str, warmup: float | None, progress: float) -> float:
    """Return the share of the largest learning rate. ``warmup`` None is the schedule's own."""
    curve = SCHEDULES[schedule]
    return curve(progress) if warmup is None else curve(progress, warmup)
