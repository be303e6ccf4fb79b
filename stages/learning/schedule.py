"""Schedules: the share of the largest learning rate at ``progress``, which runs from 0 to 1 over the whole training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

RISE, START, END = 0.3, 1 / 25, 1 / 250_000
WARM = 0.05


def one_cycle(progress: float) -> float:
    """From 1/25 up to 1 in the first 30 %, then down to almost 0, along cosines (Smith and Topin 2019, arXiv:1708.07120)."""
    if progress < RISE:
        return between(START, 1.0, progress / RISE)
    return between(1.0, END, (progress - RISE) / (1 - RISE))


def cosine(progress: float) -> float:
    """A linear warm-up of 5 %, then half a cosine to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5)."""
    if progress < WARM:
        return max(progress, 1e-3) / WARM
    return between(1.0, 0.0, (progress - WARM) / (1 - WARM))


def between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


SCHEDULES: Mapping[str, Callable[[float], float]] = {"one-cycle": one_cycle, "cosine": cosine}
