"""The thread in which the page asks a shadow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from attar.serving.core.errors import BusyError

T = TypeVar("T")
WAITING = 8
"""Maximum number of questions that wait for a shadow: they are answered one at a time, as they take
time from the requests."""


class QuestionThread:
    """One thread of its own: a question may last long, and loads and comparisons need others."""

    def __init__(self) -> None:
        self._executor, self._waiting = ThreadPoolExecutor(1, "page"), 0
        self._is_free = asyncio.Lock()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what ``work`` returns, or raise its error.

        A question that the thread has begun counts until its end, even if nobody waits for it any
        more; one that it has not begun leaves nothing behind then. Raises BusyError if too many
        wait.
        """
        if self._waiting >= WAITING:
            raise BusyError(f"{WAITING} questions wait for the shadow already; ask again")
        self._waiting += 1
        try:
            await self._is_free.acquire()
        except asyncio.CancelledError:
            self._waiting -= 1
            raise
        done = asyncio.wrap_future(self._executor.submit(work, *arguments))
        done.add_done_callback(self._count_end)
        return await asyncio.shield(done)

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()

    def _count_end(self, done: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        self._is_free.release()
