"""The moments at which a load sends its requests."""

from __future__ import annotations

from array import array
from math import inf
from typing import TypeAlias

import numpy as np

from attar.pipeline.core.errors import AttarError


class ClosedLoop:
    """For some seconds, a request whenever a connection is free."""

    def __init__(self, start: float, seconds: float) -> None:
        self._end = start + seconds

    def take_due(self, now: float) -> float | None:
        """Take the next request that is due; return when it was meant to be sent, or None."""
        return now if now < self._end else None

    def find_next(self) -> float:
        """Return when the next request is due; infinity if only an answer brings it, or none is
        left."""
        return inf

    def is_over(self, now: float) -> bool:
        """Whether no request is left."""
        return now >= self._end


class Poisson:
    """An open loop: requests at random times, whatever the answers; ``rate`` a second on average.

    The methods are those of `ClosedLoop`.
    """

    def __init__(self, start: float, seconds: float, rate: float, seed: int = 0) -> None:
        """Raises AttarError if no request falls into the time."""
        gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.2 + 100))
        times = np.cumsum(gaps)
        self._times = array("d", start + times[times < seconds])
        if not self._times:
            raise AttarError(
                f"{rate:g} requests a second leave none for {seconds:g} s; measure longer or "
                "ask for more"
            )
        self._count = 0

    def take_due(self, now: float) -> float | None:
        moment = self.find_next()
        if moment > now:
            return None
        self._count += 1
        return moment

    def find_next(self) -> float:
        return inf if self.is_over(0.0) else self._times[self._count]

    def is_over(self, now: float) -> bool:
        return self._count == len(self._times)


Schedule: TypeAlias = ClosedLoop | Poisson
