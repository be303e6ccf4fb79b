"""Room in the ledger for messages that arrive: gRPC tells no size of one before it is whole.

So there must be room for the longest message while one is awaited. Once it has come, what it
really takes is reserved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from attar.serving.core.errors import NoRoomError
from attar.serving.core.ledger import MemoryLedger

SHARE = 4
"""Arriving messages may take one of so many parts of the ledger; those of streams another one."""
WAIT_SECONDS = 2.0
"""Time that a call waits for room; an honest message arrives within milliseconds."""
QUICK_SECONDS = 1.0
"""Time for which a message may be awaited even if others need the room."""
LOOK_SECONDS = 0.002
"""Interval at which the next call in line looks for room."""


class MessageRoom:
    """Places for the messages that are awaited. Whoever waits longest makes room for others."""

    def __init__(self, ledger: MemoryLedger, largest: int) -> None:
        """``largest``: bytes of the longest message."""
        self._ledger, self._share = ledger, ledger.open_part(SHARE)
        self._place_bytes = min(largest, self._share.limit)
        self._turn = asyncio.Lock()
        self._reads: dict[asyncio.Timeout, float] = {}
        """When the reading of each awaited message began, the earliest first."""

    async def read(self, read: Callable[[], Awaitable[Any]]) -> Any:
        """Return the message that ``read`` awaits. Raises NoRoomError, and what ``read`` raises."""
        await self._wait_for_place()
        try:
            async with asyncio.timeout(None) as limit:
                self._reads[limit] = asyncio.get_running_loop().time()
                return await read()
        except TimeoutError:
            raise self._count_refusal() from None
        finally:
            self._reads.pop(limit, None)
            self._share.release(self._place_bytes)

    async def _wait_for_place(self) -> None:
        """Wait for a place, in the order of the calls."""
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._turn:
                while not self._share.try_reserve(self._place_bytes):
                    self._end_longest_read()
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise self._count_refusal() from None

    def _end_longest_read(self) -> None:
        now = asyncio.get_running_loop().time()
        limit, began = next(iter(self._reads.items()), (None, now))
        if limit and now - began > QUICK_SECONDS and not limit.expired():
            limit.reschedule(now)

    def _count_refusal(self) -> NoRoomError:
        self._ledger.refusals += 1
        return NoRoomError(
            "the requests of others fill the memory that is set aside for them; try again later"
        )
