"""Joins waiting requests to batches. No request waits while an engine is free.

A batch is formed at the next turn of the event loop after an arrival, of all requests that have
arrived by then. While every engine is busy, arrivals queue up and make the next batch. An engine
that is quicker than a change of threads runs on the event loop itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from time import perf_counter_ns
from typing import Any, TypeAlias

from attar.bundle.engines import EnginePair
from attar.models.task import Arrays, Predict
from attar.serving.core.errors import BusyError, DeadlineError, RequestError
from attar.serving.models.calls import (
    BatchResult,
    EngineCall,
    QueuedRequest,
    Shapes,
    check_engine,
    compute_batch,
)
from attar.serving.models.joining import JOIN_ALL, Joining

OnEngineCall: TypeAlias = Callable[[EngineCall], None]
"""Called after each call of an engine."""


@dataclass(frozen=True)
class BatchLimits:
    most: int = 32
    """Maximum rows of a batch; a longer request goes alone."""
    preferred: Sequence[int] = ()
    """Sizes of batches to which a longer queue is cut."""
    queue: int = 1024
    """Maximum number of waiting requests."""
    joining: Joining = JOIN_ALL
    """Which requests may share a call."""
    inline: bool = False
    """Run the first engine on the event loop, instead of all in threads; requests of more rows than
    ``most`` in a thread all the same."""


@dataclass(slots=True, eq=False)
class EngineInstance:
    """One of the equal engines of a model; an engine that runs several calls at a time is one
    instance."""

    predict: Predict
    failures: int = 0
    """Number of failures in a row that were the engine's own."""


class Batcher:
    """Joins requests to batches, on one event loop."""

    def __init__(
        self, engines: Sequence[Predict], limits: BatchLimits, probe: Arrays, executed: OnEngineCall
    ) -> None:
        """``probe``: a request that an engine answers unless it is broken."""
        self.limits, self._probe, self._on_engine_call = limits, probe, executed
        by_engine = {id(engine): EngineInstance(engine) for engine in engines}
        self._idle = [
            by_engine[id(engine)] for engine in (engines[:1] if limits.inline else engines)
        ]
        """Instances that are free; one that can run several calls is in the list several times."""
        self._instances = list(dict.fromkeys(self._idle))
        self._resting: list[EngineInstance] = []
        """Instances that are free and get no requests, as they failed and others did not."""
        self._threads = ThreadPoolExecutor(len(self._idle), "engine")
        self._begun: dict[asyncio.Future[BatchResult], tuple[int, list[EngineCall]]] = {}
        """When each batch began that runs in a thread, by ``perf_counter_ns``, and its calls that
        are over."""
        self._queues: dict[Shapes, deque[QueuedRequest]] = {}
        self._loop = asyncio.get_running_loop()
        self._is_due = False

    @property
    def failures(self) -> int:
        """Return the failures in a row of the worst engine; 0 if all answer."""
        return max(instance.failures for instance in self._instances)

    @property
    def waiting(self) -> int:
        """Return the number of queued requests."""
        return sum(map(len, self._queues.values()))

    @property
    def has_failed(self) -> bool:
        """Whether all engines are broken. The next request still goes to one of them."""
        return all(instance.failures for instance in self._instances)

    def hangs(self, seconds: float) -> bool:
        """Whether every engine has been busy with one call for longer than so many seconds."""
        if self._idle or self._resting or not self._begun:
            return False
        began = max(
            start + sum(call.nanoseconds for call in list(calls))
            for start, calls in self._begun.values()
        )
        return perf_counter_ns() - began > seconds * 1e9

    def probe_failed(self) -> None:
        """Probe the free ones among the engines that failed."""
        for instance in dict.fromkeys(
            [each for each in (*self._resting, *self._idle) if each.failures]
        ):
            (self._idle if instance in self._idle else self._resting).remove(instance)
            self._start_call(instance, check_engine, [], instance.predict, self._probe)

    def submit(self, inputs: Arrays, rows: int, seconds: float, model: str = "") -> QueuedRequest:
        """Queue a request for at most ``seconds``. Raises BusyError when the queue is full."""
        if (waiting := self.waiting) >= self.limits.queue:
            raise BusyError(
                f"{waiting} requests wait already; try again later, or serve with more instances"
            )
        shapes = tuple([array.shape[1:] for array in inputs.values()])
        if self.limits.joining.apart:  # another engine's requests wait in another queue
            shapes = (*shapes, (int(rows >= self.limits.joining.apart),))
        arrived = perf_counter_ns()
        deadline, future = arrived + int(seconds * 1e9), self._loop.create_future()
        work = QueuedRequest(inputs, rows, deadline, future, shapes, model, arrived)
        self._queues.setdefault(shapes, deque()).append(work)
        self._schedule_turn()
        return work

    def drop_request(self, work: QueuedRequest) -> None:
        """Drop a request whose caller is gone, and make room in the queue."""
        work.future.cancel()
        queue = self._queues.get(work.shapes)
        if queue and work in queue:
            queue.remove(work)
            self._drop_empty_queue(work.shapes)

    def close(self) -> None:
        """End the threads. Nothing may wait or run any more."""
        self._threads.shutdown(wait=True)

    def _drop_empty_queue(self, shapes: Shapes) -> None:
        if not self._queues[shapes]:
            del self._queues[shapes]

    def _schedule_turn(self) -> None:
        if self._idle and self._queues and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._start_batches)

    def _start_batches(self) -> None:
        self._is_due = False
        while self._idle and (batch := self._take_batch()):
            instance = self._idle.pop()
            engine = choose_engine(instance.predict, batch, self.limits.joining)
            self._start_call(instance, compute_batch, batch, engine, batch, self._probe)
            if self.limits.inline:
                break  # requests that came meanwhile may join those that still wait
        self._schedule_turn()

    def _start_call(
        self,
        instance: EngineInstance,
        work: Callable[..., BatchResult],
        batch: list[QueuedRequest],
        *arguments: Any,
    ) -> None:
        calls: list[EngineCall] = []
        if self.limits.inline and sum(work.rows for work in batch) <= self.limits.most:
            self._deliver_results(instance, batch, work(*arguments, calls))
            return
        done = self._loop.run_in_executor(self._threads, partial(work, *arguments, calls))
        self._begun[done] = perf_counter_ns(), calls
        done.add_done_callback(partial(self._on_finished, instance, batch))

    def _take_batch(self) -> list[QueuedRequest]:
        """Take a batch from the queue of the oldest request; empty if all were given up."""
        while self._queues:
            shapes, queue = min(self._queues.items(), key=lambda each: each[1][0].arrived)
            batch = self._take_from_queue(queue)
            self._drop_empty_queue(shapes)
            if batch:
                return batch
        return []

    def _take_from_queue(self, queue: deque[QueuedRequest]) -> list[QueuedRequest]:
        """Take the requests of the next batch from a queue; drop those that were given up or are
        late."""
        batch: list[QueuedRequest] = []
        rows, now, limits = 0, perf_counter_ns(), self.limits
        while queue:
            rows += queue[0].rows
            if batch and (rows > limits.most or not limits.joining.joins):
                break
            work = queue.popleft()
            if work.future.done() or work.deadline < now:
                rows -= work.rows
                expire_request(work)
            else:
                batch.append(work)
        kept = cut_to_preferred(batch, limits.preferred) if limits.preferred else batch
        queue.extendleft(reversed(batch[len(kept) :]))
        return kept

    def _on_finished(
        self,
        instance: EngineInstance,
        batch: list[QueuedRequest],
        done: asyncio.Future[BatchResult],
    ) -> None:
        del self._begun[done]
        self._deliver_results(instance, batch, done.result())
        self._schedule_turn()

    def _deliver_results(
        self, instance: EngineInstance, batch: list[QueuedRequest], result: BatchResult
    ) -> None:
        self._put_back(instance, result.broken)
        for call in result.calls:
            self._on_engine_call(call)
        for work, made in zip(batch, result.results, strict=True):
            if work.future.done():
                continue
            if isinstance(made, RequestError):
                work.future.set_exception(made)
            else:
                work.future.set_result(made)

    def _put_back(self, instance: EngineInstance, broken: bool) -> None:
        before, instance.failures = instance.failures, instance.failures + 1 if broken else 0
        self._idle.append(instance)
        if before or broken:
            idle = [*self._resting, *self._idle]
            self._resting = [] if self.has_failed else [each for each in idle if each.failures]
            self._idle = [each for each in idle if each not in self._resting]


def choose_engine(predict: Predict, batch: Sequence[QueuedRequest], joining: Joining) -> Predict:
    """Return the engine for a batch: by its rows or, where engines answer otherwise, by those of
    each of its requests alone, which all call for the same."""
    if not isinstance(predict, EnginePair):
        return predict
    return predict.choose(batch[0].rows if joining.apart else sum(work.rows for work in batch))


def expire_request(work: QueuedRequest) -> None:
    if not work.future.done():
        work.future.set_exception(
            DeadlineError(f"no engine was free within {(work.deadline - work.arrived) / 1e9:.3g} s")
        )


def cut_to_preferred(batch: list[QueuedRequest], preferred: Sequence[int]) -> list[QueuedRequest]:
    """Return the requests that make the largest preferred number of rows, or all if none do."""
    sums = list(accumulate(work.rows for work in batch))
    best = max((rows for rows in sums if rows in preferred), default=None)
    return batch if best is None else batch[: sums.index(best) + 1]
