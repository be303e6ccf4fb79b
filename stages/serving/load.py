"""Load: asks a server over many connections, again and again or at random times, and notes how long each answer takes.

Sockets and epoll without an event loop between: a generator that is slower than the server would measure itself.
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Self

import numpy as np

from attar.pipeline.errors import AttarError
from attar.stages.proof.timing import Seconds, uncollected
from attar.stages.serving.schedule import Again, Poisson, Schedule

PATIENCE = 10.0
"""Seconds that the last answers may take once no more is asked."""
COARSE = 2e-3
"""Seconds: a wait that is shorter is spent looking, as the system's own waits are not that fine."""
PIECE = 1 << 16
SHARE = 0.8
"""Of the closed loop's best rate: the open loop's, unless another is asked for."""
CLOSED, UNANSWERED = "closed", "unanswered"
OK = 200


@dataclass(frozen=True)
class Outcome:
    latencies: Seconds
    """Of every answer with status 200, from when its request was meant to be sent to its last byte."""
    seconds: float
    """From the start to the last answer."""
    errors: Mapping[str, int]
    """By status, ``closed`` for connections that were closed instead of an answer, and ``unanswered`` after 10 s."""
    busy: float
    """Share of the time that the generator itself computed: near 1 in a closed loop, it may be what limits the rate."""

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


@dataclass(frozen=True, slots=True)
class Head:
    """What the lines above an answer's body say."""

    status: int
    length: int
    keep_alive: bool


@lru_cache(maxsize=4096)
def head(lines: bytes) -> Head:
    """Servers repeat themselves, so it is read once. Raises AttarError for what is no answer with a length."""
    first, *rest = lines.split(b"\r\n")
    version, _, status = first.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not status[:3].isdigit():
        raise AttarError(f"the server answered {first[:80]!r}, which is no HTTP/1.1; give the address of its HTTP port")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in rest)}
    if not fields.get(b"content-length", b"").isdigit():
        raise AttarError("the server answered without Content-Length, which the load generator needs")
    return Head(int(status[:3]), int(fields[b"content-length"]), fields.get(b"connection", b"").lower() != b"close")


class Connection:
    """One request at a time; opened when it is needed."""

    def __init__(self, address: tuple[str, int], epoll: select.epoll) -> None:
        self.asked = False
        self.intended = 0.0
        self._address, self._epoll = address, epoll
        self._socket = socket.socket()
        self.opened = False
        self._unsent = memoryview(b"")
        self._head: Head | None = None
        self._lines, self._missing = b"", 0

    def open(self) -> int:
        """Its number for epoll. Raises AttarError where nothing listens."""
        self._socket.close()
        try:
            self._socket = made = socket.create_connection(self._address, PATIENCE)
        except OSError as error:
            host, port = self._address
            raise AttarError(
                f"there is no connection to {host}:{port}: {error}; start `attar serve`, or give its --url"
            ) from error
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll.register(made, select.EPOLLIN)
        self.opened = True
        return made.fileno()

    def close(self) -> None:
        self._socket.close()
        self.opened = self.asked = False
        self._unsent = memoryview(b"")

    def ask(self, message: bytes, intended: float) -> None:
        self.asked, self.intended, self._head, self._lines = True, intended, None, b""
        self._send(memoryview(message))

    def write(self) -> None:
        """Go on with a message that did not go out at once."""
        self._send(self._unsent)

    def _send(self, message: memoryview) -> None:
        waited = bool(self._unsent)
        try:
            sent = self._socket.send(message)
        except BlockingIOError:
            sent = 0
        except OSError:  # reading tells of it, after whatever was answered
            sent = len(message)
        self._unsent = message[sent:]
        if waited != bool(self._unsent):
            self._epoll.modify(self._socket, select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0))

    def read(self) -> int:
        """The status once the answer is whole, before that 0. Raises ConnectionError when it was closed."""
        try:
            data = self._socket.recv(PIECE)
        except BlockingIOError:
            return 0
        if not data:
            raise ConnectionResetError
        if self._head is None:
            data = self._lines + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._lines = data
                return 0
            self._head = head(data[:end])
            self._missing = self._head.length + end + 4
        self._missing -= len(data)
        return self._head.status if self._missing <= 0 else 0

    def done(self) -> None:
        """It is free for the next request."""
        self.asked = False
        if self._unsent or (self._head and not self._head.keep_alive):  # some are refused before all is sent
            self.close()


class Load:
    """Open connections to one server. ``close`` it, or use it in a ``with`` statement."""

    def __init__(self, host: str, port: int, messages: Sequence[bytes], connections: int) -> None:
        """``messages``: whole HTTP requests, sent in turn. Raises AttarError where nothing listens."""
        self._epoll = select.epoll()
        self._messages, self._turn = messages, 0
        self._free = deque(Connection((host, port), self._epoll) for _ in range(connections))
        self._every = tuple(self._free)
        self._by_number = {connection.open(): connection for connection in self._every}
        self._latencies, self._errors = array("d"), Counter[str]()

    def closed(self, seconds: float) -> Outcome:
        """Every connection asks again as soon as it is answered."""
        return self._run(Again(time.perf_counter(), seconds))

    def open(self, rate: float, seconds: float, seed: int = 0) -> Outcome:
        """Poisson arrivals. A request that finds no connection free waits here, and its latency counts from its arrival."""
        return self._run(Poisson(time.perf_counter(), seconds, rate, seed))

    def close(self) -> None:
        for connection in self._every:
            connection.close()
        self._epoll.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, schedule: Schedule) -> Outcome:
        self._latencies, self._errors = array("d"), Counter()
        start, cpu = time.perf_counter(), time.thread_time()
        with uncollected():
            self._drive(schedule)
        seconds = time.perf_counter() - start
        return Outcome(np.array(self._latencies), seconds, dict(self._errors), (time.thread_time() - cpu) / seconds)

    def _drive(self, schedule: Schedule) -> None:
        ended = inf
        while True:
            now = time.perf_counter()
            while self._free and (intended := schedule.due(now)) is not None:
                self._ask(self._free.popleft(), intended)
            if schedule.over(now):
                ended = min(ended, now)
                if len(self._free) == len(self._every):
                    return None
                if now > ended + PATIENCE:
                    return self._give_up()
            for number, event in self._epoll.poll(self._wait(schedule, now)):
                self._look(self._by_number[number], event)

    def _wait(self, schedule: Schedule, now: float) -> float:
        wait = schedule.next() - now if self._free else inf
        return min(0.1, wait - COARSE / 2) if wait > COARSE else 0.0

    def _ask(self, connection: Connection, intended: float) -> None:
        if not connection.opened:
            self._by_number[connection.open()] = connection
        self._turn = (self._turn + 1) % len(self._messages)
        connection.ask(self._messages[self._turn], intended)

    def _look(self, connection: Connection, event: int) -> None:
        if event & select.EPOLLOUT:
            connection.write()
        if not event & ~select.EPOLLOUT:
            return
        if not connection.asked:  # what comes unasked is the end, or nothing that a next answer could be told from
            connection.close()
            return
        try:
            status = connection.read()
        except ConnectionError:
            self._errors[CLOSED] += 1
            connection.close()
            self._free.append(connection)
            return
        if status == OK:
            self._latencies.append(time.perf_counter() - connection.intended)
        elif status:
            self._errors[str(status)] += 1
        if status:
            connection.done()
            self._free.append(connection)

    def _give_up(self) -> None:
        for connection in self._every:
            if connection.asked:
                self._errors[UNANSWERED] += 1
                connection.close()
                self._free.append(connection)
