"""Stream: requests that come on one stream are answered at the same time, so that they share
batches.

The answers have the order of the requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

import grpc

T = TypeVar("T")
PIPELINED = 32
"""Requests of one stream that are read before the first of them is answered."""
PIPELINED_BYTES = 16 * 2**20
"""That they have together, beyond which no further one is read."""


class StreamPipeline(Generic[T]):
    """The requests of one stream that are under way."""

    def __init__(
        self, read: Callable[[], Awaitable[Any]], answer: Callable[[Any], Awaitable[T]]
    ) -> None:
        self._read, self._answer = read, answer
        self._answers: asyncio.Queue[tuple[asyncio.Future[T], int] | None] = asyncio.Queue()
        self._requests = self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def answer_in_order(self) -> AsyncIterator[T]:
        """Yield the answers to what is read.

        What ``read`` raises is raised behind the last of them.
        """
        reader = asyncio.create_task(self._read_requests())
        try:
            while (begun := await self._answers.get()) is not None:
                answer, size = begun
                yield await answer
                self._count_pending(-1, -size)
            await reader
        finally:
            await self._cancel_pending(reader)

    async def _read_requests(self) -> None:
        try:
            while (sent := await self._read()) is not grpc.aio.EOF:
                self._count_pending(1, len(sent))
                self._answers.put_nowait((asyncio.ensure_future(self._answer(sent)), len(sent)))
                await self._has_room.wait()
        finally:
            self._answers.put_nowait(None)

    def _count_pending(self, requests: int, size: int) -> None:
        self._requests += requests
        self._bytes += size
        if self._requests < PIPELINED and self._bytes < PIPELINED_BYTES:
            self._has_room.set()
        else:
            self._has_room.clear()

    async def _cancel_pending(self, reader: asyncio.Future[None]) -> None:
        """Cancel what is still under way when the stream is over."""
        reader.cancel()
        await asyncio.wait([reader])
        left = [
            begun for _ in range(self._answers.qsize()) if (begun := self._answers.get_nowait())
        ]
        for answer, _ in left:
            answer.cancel()
        # told already, or nobody is left to be told
        await asyncio.gather(reader, *(answer for answer, _ in left), return_exceptions=True)
