"""A load on a server: requests over many connections, and the time to each answer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, Self, TypeVar

import numpy as np

from attar.proof.comparison.timing import Seconds, pause_collection
from attar.serving.load.schedule import ClosedLoop, Poisson, Schedule

PATIENCE = 10.0
"""Time limit of the last answers, in seconds."""
COARSE = 2e-3
"""A wait of fewer seconds is a busy one, as the system's own waits are not that fine."""
SHARE = 0.8
"""The rate of the open loop, as a share of the closed loop's best one, if none is asked for."""
CLOSED, UNANSWERED = "closed", "unanswered"
C = TypeVar("C")
"""A connection."""


@dataclass(frozen=True)
class Outcome:
    latencies: Seconds
    """Seconds from the time when a request was due to the last byte of its answer, without errors.
    """
    seconds: float
    """Seconds from the start to the last answer."""
    errors: Mapping[str, int]
    """Counts by status of HTTP or gRPC; ``closed`` for a connection that was closed instead of an
    answer, ``unanswered`` for no answer within 10 s."""
    busy: float
    """Share of the time that the generator's thread computed. Near 1 in a closed loop, the
    generator may limit the rate."""
    cpu: float
    """Processor time of all threads of the generator, in seconds."""

    @property
    def rate(self) -> float:
        """Return answers a second."""
        return len(self.latencies) / self.seconds

    def compute_quantiles(self) -> dict[str, float]:
        """Return quantiles of the latency in microseconds; empty without an answer."""
        if not len(self.latencies):
            return {}
        named = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
        found = np.percentile(self.latencies, list(named.values())) * 1e6
        return dict(zip(named, found.tolist(), strict=True))


class Load(ABC, Generic[C]):
    """Open connections to one server, each for one request at a time.

    ``close`` it, or use it in a ``with`` statement.
    """

    def __init__(self, messages: Sequence[bytes], connections: Sequence[C]) -> None:
        """``messages``: encoded requests, which are sent in turn."""
        self._messages, self._turn = messages, 0
        self._every, self._free = tuple(connections), deque(connections)
        self._latencies, self._errors = array("d"), Counter[str]()

    def run_closed_loop(self, seconds: float) -> Outcome:
        """Send the next request on each connection as soon as the one before is answered."""
        return self._measure(ClosedLoop(time.perf_counter(), seconds))

    def run_open_loop(self, rate: float, seconds: float, seed: int = 0) -> Outcome:
        """Send requests at random times.

        One that finds no free connection waits, and its latency counts from when it was due.
        """
        return self._measure(Poisson(time.perf_counter(), seconds, rate, seed))

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _send_requests(self, schedule: Schedule) -> None:
        """Send until the schedule is over and all is answered, or ``PATIENCE`` has passed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _measure(self, schedule: Schedule) -> Outcome:
        self._latencies, self._errors = array("d"), Counter()
        start, thread, cpu = time.perf_counter(), time.thread_time(), time.process_time()
        with pause_collection():
            self._send_requests(schedule)
        seconds, busy = time.perf_counter() - start, time.thread_time() - thread
        spent = time.process_time() - cpu
        return Outcome(
            np.array(self._latencies), seconds, dict(self._errors), busy / seconds, spent
        )

    def _take_message(self) -> bytes:
        self._turn = (self._turn + 1) % len(self._messages)
        return self._messages[self._turn]

    def _compute_wait(self, schedule: Schedule, now: float) -> float:
        """Return the seconds to wait for the next request; 0 if they are too few to sleep."""
        wait = schedule.find_next() - now if self._free else inf
        return min(0.1, wait - COARSE / 2) if wait > COARSE else 0.0
