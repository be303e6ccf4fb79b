"""Stream: requests that come on one stream are answered at the same time, so that they share batches, and in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

T = TypeVar("T")
PIPELINED = 32
"""Requests of one stream that are read before the first of them is answered."""


async def answer_in_order(read: Callable[[], Awaitable[Any]], answer: Callable[[Any], Awaitable[T]]) -> AsyncIterator[T]:
    """The answers to what is read. What ``read`` raises is raised behind the last of them."""
    room = asyncio.Semaphore(PIPELINED)
    answers: asyncio.Queue[asyncio.Future[T] | None] = asyncio.Queue()

    async def take() -> None:
        try:
            await room.acquire()
            while (sent := await read()) is not grpc.aio.EOF:
                answers.put_nowait(asyncio.ensure_future(answer(sent)))
                await room.acquire()
        finally:
            answers.put_nowait(None)

    reader = asyncio.create_task(take())
    try:
        while (made := await answers.get()) is not None:
            yield await made
            room.release()
        await reader
    finally:
        await cancel(reader, answers)


async def cancel(reader: asyncio.Future[None], answers: asyncio.Queue[asyncio.Future[T] | None]) -> None:
    """What is still under way when the stream is over."""
    reader.cancel()
    await asyncio.wait([reader])
    begun = [made for _ in range(answers.qsize()) if (made := answers.get_nowait())]
    for made in begun:
        made.cancel()
    await asyncio.gather(reader, *begun, return_exceptions=True)  # told already, or nobody is left to be told
