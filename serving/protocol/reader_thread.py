"""A thread that reads long requests and writes long responses, so that the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import Any, TypeVar

from attar.serving.core.errors import DeadlineError

T = TypeVar("T")


class ReaderThread:
    """One thread: a second one would wait for the interpreter, and delay the event loop more."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._executor = ThreadPoolExecutor(1, "read")

    async def run(self, arrived: int, work: Callable[..., T], *arguments: Any) -> T:
        """Return the result of work that is done in the thread, or raise its error.

        Raises DeadlineError if the deadline passes, which counts from ``arrived`` by
        ``perf_counter_ns``, but only once the thread is done with the work.
        """
        left = self._deadline - (perf_counter_ns() - arrived) * 1e-9
        job = self._executor.submit(work, *arguments)
        try:
            async with asyncio.timeout(left):
                return await asyncio.wrap_future(job)
        except TimeoutError as error:
            raise DeadlineError(
                "there was no time to read the request, or to write the response, within "
                f"{self._deadline:g} s"
            ) from error
        finally:
            while not job.done():  # until then the memory that it uses stays reserved
                await asyncio.sleep(0.01)
            # The traceback of an error refers to this frame, so the body would stay in memory
            # until garbage is collected.
            del job, work, arguments

    def close(self) -> None:
        """Stop the thread. No request may be read any more."""
        self._executor.shutdown()
