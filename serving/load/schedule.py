"""Schedule: when a load's requests are meant to be sent."""

from __future__ import annotations

from array import array
from math import inf
from typing import Protocol

import numpy as np

from attar.pipeline.core.errors import AttarError


class Schedule(Protocol):
    """When requests are meant to be sent."""

    def due(self, now: float) -> float | None:
        """Take the next one: the moment at which it was meant to be sent; None if that is not
        before ``now``."""

    def next(self) -> float:
        """The moment of the next one; infinite where only answers bring it, or no more come."""

    def over(self, now: float) -> bool:
        """Whether no more come."""


class Again:
    """Closed loop: whenever a connection is free, for some seconds."""

    def __init__(self, start: float, seconds: float) -> None:
        self._end = start + seconds

    def due(self, now: float) -> float | None:
        return now if now < self._end else None

    def next(self) -> float:
        return inf

    def over(self, now: float) -> bool:
        return now >= self._end


class Poisson:
    """Open loop: at random times that do not depend on the answers, ``rate`` a second on
    average."""

    def __init__(self, start: float, seconds: float, rate: float, seed: int = 0) -> None:
        """Raises AttarError where no request falls into the time."""
        gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.2 + 100))
        times = np.cumsum(gaps)
        self._times = array("d", start + times[times < seconds])
        if not self._times:
            raise AttarError(
                f"{rate:g} requests a second leave none for {seconds:g} s; measure longer or "
                "ask for more"
            )
        self._count = 0

    def due(self, now: float) -> float | None:
        if self._count == len(self._times) or self._times[self._count] > now:
            return None
        self._count += 1
        return self._times[self._count - 1]

    def next(self) -> float:
        return inf if self._count == len(self._times) else self._times[self._count]

    def over(self, now: float) -> bool:
        return self._count == len(self._times)
