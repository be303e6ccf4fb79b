"""Keeps background tasks running: one that ends is logged, counted and started again."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 60.0
"""Pauses before a task is started again. They double while the task fails sooner than the longest
pause."""
log = logging.getLogger(__name__)


class Supervisor:
    """Keeps background tasks running, on one event loop."""

    def __init__(self) -> None:
        self._endless: list[asyncio.Task[None]] = []
        self._ends: Counter[str] = Counter()

    def keep_running(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run endless work until `close`.

        After a failure it is started again, so it must keep its state elsewhere.
        """
        self._ends[name] += 0
        self._endless.append(asyncio.create_task(self._run_forever(name, work)))

    def run_once(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work to its end. The task never fails: a failure is logged and counted."""
        self._ends[name] += 0
        return asyncio.create_task(self._run_logged(name, work))

    async def close(self) -> None:
        """Cancel the endless tasks."""
        for task in self._endless:
            task.cancel()
        await asyncio.gather(*self._endless, return_exceptions=True)

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        ends = CounterMetricFamily(
            "attar_background_ends",
            "Background tasks that ended or failed by themselves.",
            labels=["task"],
        )
        for name, count in self._ends.items():
            ends.add_metric([name], count)
        yield ends

    async def _run_forever(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_SECONDS
        while True:
            began = loop.time()
            await self._run_logged(name, work(), endless=True)
            if loop.time() - began > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run_logged(self, name: str, work: Awaitable[None], *, endless: bool = False) -> None:
        again = "; it is started again" if endless else ""
        try:
            await work
            if not endless:
                return
            log.error("the background task %r ended%s", name, again)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():  # by ``close``, or at the end of the loop
                raise
            log.error("the background task %r was cancelled by what it waited for%s", name, again)
        except Exception:
            log.exception("the background task %r failed%s", name, again)
        self._ends[name] += 1
