"""The bytes that everything under way holds, over HTTP, over gRPC and for the shadow.

What a request costs, its body as it comes and decompressed, its tensors and its decoded pictures,
is reserved before it is spent, and released when it is answered. A reply that its client does not
take in is counted without being refused: it is there already.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import TYPE_CHECKING

from attar.pipeline.keys import memory
from attar.serving.core.errors import DeadlineError, NoRoomError, TooLargeError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SHARE = 4
"""Requests may take one of so many parts of the memory that the process may have. The rest is for
engines, answers, and what the transports and Python hold besides."""
MOST_BYTES = 2**30
"""Largest limit that is chosen by default."""


class MemoryLedger:
    """The bytes that are reserved, from any thread."""

    def __init__(self, limit: int | None = None, whole: MemoryLedger | None = None) -> None:
        """``whole``: the ledger of which this is a part, in which its bytes count too."""
        self.limit = limit or default_limit()
        self.held = self.refusals = 0
        self._whole, self._lock = whole, Lock()

    def open_part(self, parts: int) -> MemoryLedger:
        """Return a ledger with one of so many parts of the limit."""
        return MemoryLedger(self.limit // parts, self)

    def open_reservation(self) -> Reservation:
        return Reservation(self)

    def reserve(self, size: int, held: int = 0) -> None:
        """Reserve bytes. ``held``: what the same request holds already.

        Raises NoRoomError where others hold too much, TooLargeError where it alone is too much.
        """
        self.check_size(held + size)
        if self.try_reserve(size):
            return
        self.refusals += 1
        raise NoRoomError(
            "the requests of others fill the memory that is set aside for them; try again later"
        )

    def check_size(self, size: int) -> None:
        """Raise TooLargeError for a request that finds no room even where nobody else has any."""
        if size > self.limit:
            self.refusals += 1
            raise TooLargeError(
                f"the request takes {size:,} bytes of memory, --max-bodies allows "
                f"{self.limit:,} for all together"
            )

    def try_reserve(self, size: int) -> bool:
        """Reserve bytes if there is room, and return whether there was."""
        with self._lock:
            if self.held + size > self.limit:
                return False
            if self._whole and not self._whole.try_reserve(size):
                return False
            self.held += size
            return True

    def count(self, size: int) -> None:
        """Reserve bytes that are held already, room or not; fewer than 0 release some."""
        self.release(-size)

    def release(self, size: int) -> None:
        with self._lock:
            self.held -= size
        if self._whole:
            self._whole.release(size)

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield GaugeMetricFamily(
            "attar_ledger_bytes",
            "Memory that requests under way, unread replies and the shadow's queue hold.",
            value=self.held,
        )
        yield GaugeMetricFamily(
            "attar_ledger_limit_bytes", "What they may reserve together.", value=self.limit
        )
        yield CounterMetricFamily(
            "attar_ledger_refusals", "Reservations that found no room.", value=self.refusals
        )


class Reservation:
    """The bytes reserved for one request. It may be closed while another thread uses it."""

    __slots__ = ("_closed", "_lock", "held", "ledger")

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger, self.held = ledger, 0
        self._closed, self._lock = False, Lock()

    def add(self, size: int) -> None:
        """Reserve more. Raises NoRoomError and TooLargeError; then it holds what it held before.

        Raises DeadlineError once it is closed, so that a thread that reads for nobody ends.
        """
        with self._lock:
            if self._closed:
                raise DeadlineError("nobody waits for the request any more")
            self.ledger.reserve(size, self.held)
            self.held += size

    def hold_reply(self, size: int) -> None:
        """Hold a reply, which is there already, in place of its request; nothing once closed."""
        with self._lock:
            if self._closed:
                return
            more, self.held = size - self.held, size
            self.ledger.count(more)

    def close(self) -> None:
        """Release everything. A second call has no effect."""
        with self._lock:
            size, self.held, self._closed = self.held, 0, True
        if size:
            self.ledger.release(size)


def default_limit() -> int:
    return min(MOST_BYTES, memory.read_memory_limit() // SHARE)
