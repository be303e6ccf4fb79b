"""Room: memory for messages over gRPC, which tells no size of a message before it is whole.

So there is room for the largest before one is read, and what it takes is reserved once it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attar.serving.core.errors import NoRoomError, RequestError
from attar.serving.core.ledger import Ledger, LedgerShare, Reservation

COPIES = 3
"""Of a message while it is read: as it came, decoded, and as arrays."""
SHARE = 4
"""Messages of calls that are on their way have one of so many parts of the memory for requests,
streams have another."""
WAIT_SECONDS = 2.0
"""For room; an honest message is on its way for some milliseconds."""
QUICK_SECONDS = 1.0
"""That a message may take while others wait for room; who is slower makes room."""
LOOK_SECONDS = 0.002
"""Between looks for room of whoever is next."""
FULL = "the requests of others fill the memory that is set aside for them; try again later"


class MessageMemory:
    def __init__(self, ledger: Ledger, largest: int) -> None:
        """``largest``: bytes of a message."""
        self._ledger = ledger
        self._arriving, self._streams = LedgerShare(ledger, SHARE), LedgerShare(ledger, SHARE)
        self._place = min(largest, ledger.limit // SHARE)
        self._turn = asyncio.Lock()
        self._reads: dict[asyncio.Timeout, float] = {}

    @contextmanager
    def open_reservation(self) -> Iterator[Reservation]:
        """Open the reservation of one request, until it is answered."""
        made = self._ledger.open_reservation()
        try:
            yield made
        finally:
            made.close()

    @contextmanager
    def hold_stream(self) -> Iterator[None]:
        """Room for the message that a stream is waiting for. Raises NoRoomError."""
        if not self._streams.try_reserve(self._place):
            raise self._count_refusal()
        try:
            yield
        finally:
            self._streams.release(self._place)

    async def read_message(
        self, reservation: Reservation, read: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Return the message of a call, whose memory is then reserved.

        Raises NoRoomError, TooLargeError, and what ``read`` raises.
        """
        await self._wait_for_place()
        try:
            async with asyncio.timeout(None) as limit:
                self._reads[limit] = asyncio.get_running_loop().time()
                sent = await read()
        except TimeoutError:
            raise self._count_refusal() from None
        finally:
            self._reads.pop(limit, None)
            self._arriving.release(self._place)
        try:
            reserve_copies(reservation, sent)
        except RequestError:
            del sent  # else the error would hold it until the call has ended
            raise
        return sent

    async def _wait_for_place(self) -> None:
        """Wait for room, in the order of the calls."""
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._turn:
                while not self._arriving.try_reserve(self._place):
                    self._cut_slowest()
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise self._count_refusal() from None

    def _cut_slowest(self) -> None:
        """Cut off the call whose message has been on its way for longest, where that is long."""
        now = asyncio.get_running_loop().time()
        limit, began = next(iter(self._reads.items()), (None, now))
        if limit and now - began > QUICK_SECONDS and not limit.expired():
            limit.reschedule(now)

    def _count_refusal(self) -> NoRoomError:
        self._ledger.refusals += 1
        return NoRoomError(FULL)


def reserve_copies(reservation: Reservation, sent: Any) -> None:
    """Raises NoRoomError and TooLargeError. Nothing is sent at the end of a stream."""
    if isinstance(sent, bytes):
        reservation.add(COPIES * len(sent))
