"""Load: asks a server over many connections, again and again or at random times, and notes how
long each answer takes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from attar.models.task import Array, Arrays
from attar.proof.timing import Seconds, pause_collection
from attar.serving.load.client import Address
from attar.serving.load.schedule import Again, Poisson, Schedule

PATIENCE = 10.0
"""Seconds that the last answers may take once no more is asked."""
COARSE = 2e-3
"""Seconds: a wait that is shorter is spent looking, as the system's own waits are not that fine."""
SHARE = 0.8
"""Of the closed loop's best rate: the open loop's, unless another is asked for."""
CLOSED, UNANSWERED = "closed", "unanswered"
C = TypeVar("C")
"""A connection."""


@dataclass(frozen=True)
class Outcome:
    latencies: Seconds
    """Of every answer that is no error, from when its request was meant to be sent to its last
    byte."""
    seconds: float
    """From the start to the last answer."""
    errors: Mapping[str, int]
    """By status of HTTP or gRPC, ``closed`` for connections that were closed instead of an
    answer, ``unanswered`` after 10 s."""
    busy: float
    """Share of the time that the generator's thread computed: near 1 in a closed loop, it may be
    what limits the rate."""
    cpu: float
    """Seconds that all threads of the generator's process computed."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def quantiles(self) -> dict[str, float]:
        """Microseconds; nothing where there was no answer."""
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
        """``messages``: requests as the transport sends them, in turn."""
        self._messages, self._turn = messages, 0
        self._every, self._free = tuple(connections), deque(connections)
        self._latencies, self._errors = array("d"), Counter[str]()

    def closed(self, seconds: float) -> Outcome:
        """Every connection asks again as soon as it is answered."""
        return self._run(Again(time.perf_counter(), seconds))

    def open(self, rate: float, seconds: float, seed: int = 0) -> Outcome:
        """Poisson arrivals.

        A request that finds no connection free waits here, and its latency counts from its arrival.
        """
        return self._run(Poisson(time.perf_counter(), seconds, rate, seed))

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _drive(self, schedule: Schedule) -> None:
        """Ask until the schedule is over and all is answered, or ``PATIENCE`` has run out."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, schedule: Schedule) -> Outcome:
        self._latencies, self._errors = array("d"), Counter()
        start, thread, cpu = time.perf_counter(), time.thread_time(), time.process_time()
        with pause_collection():
            self._drive(schedule)
        seconds, busy = time.perf_counter() - start, time.thread_time() - thread
        spent = time.process_time() - cpu
        return Outcome(
            np.array(self._latencies), seconds, dict(self._errors), busy / seconds, spent
        )

    def _message(self) -> bytes:
        self._turn = (self._turn + 1) % len(self._messages)
        return self._messages[self._turn]

    def _wait(self, schedule: Schedule, now: float) -> float:
        """Seconds to the next request; 0 where they are too few to be waited for otherwise than
        by looking."""
        wait = schedule.next() - now if self._free else inf
        return min(0.1, wait - COARSE / 2) if wait > COARSE else 0.0


class Transport(Protocol):
    """A way to ask a server."""

    @property
    def where(self) -> Address: ...

    @property
    def forms(self) -> Sequence[str]:
        """In which tensors travel."""

    def ask(self, model: str, inputs: Arrays, form: str) -> dict[str, Array]:
        """The outputs by name. Raises AttarError with what the server says when it does not
        answer."""

    def messages(self, model: str, requests: Sequence[Arrays], form: str) -> Sequence[bytes]:
        """The requests as its load sends them."""

    def load(self, messages: Sequence[bytes], connections: int) -> Load[Any]:
        """Raises AttarError where nothing listens, or who listens is not trusted."""
