"""Batcher: requests that wait together are answered together. None ever waits while an engine is idle.

A batch is formed at the next turn of the event loop after an arrival, of all that has arrived by then; while every engine is
busy, arrivals queue up and make the next batch. An engine that is quicker than handing over to a thread runs on the loop itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from time import perf_counter_ns
from typing import TypeAlias

import numpy as np

from attar.models.task import Array, Arrays, Predict
from attar.stages.serving.errors import BadRequest, Busy, EngineFailed, Late, Refused

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
Outputs: TypeAlias = dict[str, Array]


@dataclass(frozen=True)
class Limits:
    most: int = 32
    """Rows of a batch; a request of more goes alone."""
    preferred: Sequence[int] = ()
    """Rows that a longer queue is cut to."""
    queue: int = 1024
    """Requests that may wait."""
    joins: bool = True
    """Whether requests may share a call at all."""
    inline: bool = False
    """Run the first engine on the event loop instead of each in a thread."""


@dataclass(slots=True, eq=False)
class Work:
    """One request on its way through; times are nanoseconds of ``perf_counter_ns``."""

    inputs: Arrays
    rows: int
    deadline: int
    future: asyncio.Future[Outputs]
    """Gets the outputs, or Refused; cancelling it drops the work."""
    shapes: Shapes
    model: str = ""
    """The name that was asked: several may share the engines."""
    arrived: int = field(default_factory=perf_counter_ns)
    started: int = 0
    ended: int = 0
    shared: int = 0
    """Rows of the batch that it was in."""


Executed: TypeAlias = Callable[[Sequence[Work]], None]
"""Told of every batch."""


class Batcher:
    """Belongs to one event loop, from whose thread alone it is called."""

    def __init__(self, engines: Sequence[Predict], limits: Limits, probe: Arrays, executed: Executed) -> None:
        """``probe``: a request that every engine answers as long as it works, to tell its failures from those of a request."""
        self.limits, self._probe, self._executed = limits, probe, executed
        self._idle = list(engines[:1] if limits.inline else engines)
        self._threads = None if limits.inline else ThreadPoolExecutor(len(engines), "engine")
        self._queues: dict[Shapes, deque[Work]] = {}
        self._loop = asyncio.get_running_loop()
        self._due = False
        self.waiting = 0
        """Requests in the queue."""
        self.failed = False
        """Whether an engine no longer answers what it answered before."""

    def submit(self, inputs: Arrays, rows: int, seconds: float, model: str = "") -> Work:
        """Queue a request for at most ``seconds``. Raises Busy when the queue is full."""
        if self.waiting >= self.limits.queue:
            raise Busy(f"{self.waiting} requests wait already; try again later, or serve with more instances")
        shapes = tuple([array.shape[1:] for array in inputs.values()])
        work = Work(inputs, rows, perf_counter_ns() + int(seconds * 1e9), self._loop.create_future(), shapes, model)
        self._queues.setdefault(shapes, deque()).append(work)
        self.waiting += 1
        self._wake()
        return work

    def drop(self, work: Work) -> None:
        """Its caller is gone: make room in the queue."""
        work.future.cancel()
        queue = self._queues.get(work.shapes)
        if queue and work in queue:
            queue.remove(work)
            self._shrunk(work.shapes, 1)

    def close(self) -> None:
        """For when nothing waits or runs any more."""
        if self._threads:
            self._threads.shutdown(wait=True)

    def _shrunk(self, shapes: Shapes, by: int) -> None:
        self.waiting -= by
        if not self._queues[shapes]:
            del self._queues[shapes]

    def _wake(self) -> None:
        if self._idle and not self._due:
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        while self._idle and (batch := self._next()):
            engine = self._idle.pop()
            if self._threads is None:
                self._answer(engine, batch, compute(engine, batch, self._probe))
                break  # what came meanwhile may join those that still wait
            done = self._loop.run_in_executor(self._threads, compute, engine, batch, self._probe)
            done.add_done_callback(partial(self._finished, engine, batch))
        if self.waiting:
            self._wake()

    def _next(self) -> list[Work]:
        """Of those with the shapes that have waited longest, as many as go together; none where all were given up."""
        while self._queues:
            shapes, queue = min(self._queues.items(), key=lambda each: each[1][0].arrived)
            before = len(queue)
            batch = self._first(queue)
            self._shrunk(shapes, before - len(queue))
            if batch:
                return batch
        return []

    def _first(self, queue: deque[Work]) -> list[Work]:
        """Takes from a queue what goes together, and what was given up or is late."""
        batch: list[Work] = []
        rows, now, limits = 0, perf_counter_ns(), self.limits
        while queue:
            rows += queue[0].rows
            if batch and (rows > limits.most or not limits.joins):
                break
            work = queue.popleft()
            if work.future.done() or work.deadline < now:
                rows -= work.rows
                expire(work)
            else:
                batch.append(work)
        kept = cut(batch, limits.preferred) if limits.preferred else batch
        queue.extendleft(reversed(batch[len(kept) :]))
        return kept

    def _finished(self, engine: Predict, batch: list[Work], done: asyncio.Future[list[Outputs | Refused]]) -> None:
        self._answer(engine, batch, done.result())
        if self.waiting:
            self._wake()

    def _answer(self, engine: Predict, batch: list[Work], found: list[Outputs | Refused]) -> None:
        self._idle.append(engine)
        self._executed(batch)
        for work, made in zip(batch, found, strict=True):
            if work.future.done():
                continue
            if isinstance(made, Refused):
                self.failed |= isinstance(made, EngineFailed)
                work.future.set_exception(made)
            else:
                work.future.set_result(made)


def expire(work: Work) -> None:
    if not work.future.done():
        work.future.set_exception(Late(f"no engine was free within {(work.deadline - work.arrived) / 1e9:g} s"))


def cut(batch: list[Work], preferred: Sequence[int]) -> list[Work]:
    """As many works as make the largest preferred number of rows; all where none does."""
    sums = list(accumulate(work.rows for work in batch))
    best = max((rows for rows in sums if rows in preferred), default=None)
    return batch if best is None else batch[: sums.index(best) + 1]


def compute(engine: Predict, batch: Sequence[Work], probe: Arrays) -> list[Outputs | Refused]:
    """Each work's own outputs. Where a batch fails, each is tried alone, so that only those fail that are to blame."""
    started = perf_counter_ns()
    shared = sum(work.rows for work in batch)
    try:
        found: list[Outputs | Refused] = [*split(engine(joined(batch)), [work.rows for work in batch])]
    except Exception as error:  # noqa: BLE001  # whatever an engine raises, its callers are told and others served
        if len(batch) > 1:
            return [each for work in batch for each in compute(engine, [work], probe)]
        found = [blame(engine, probe, error)]
    ended = perf_counter_ns()
    for work in batch:
        work.started, work.ended, work.shared = started, ended, shared
    return found


def joined(batch: Sequence[Work]) -> Arrays:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([work.inputs[name] for work in batch]) for name in batch[0].inputs}


def split(outputs: Outputs, rows: Sequence[int]) -> list[Outputs]:
    if len(rows) == 1:
        return [outputs]
    ends = list(accumulate(rows))
    return [{name: array[end - count : end] for name, array in outputs.items()} for end, count in zip(ends, rows, strict=True)]


def blame(engine: Predict, probe: Arrays, error: Exception) -> Refused:
    """The request's fault where the engine still answers what it answered before, else the engine's."""
    said = " ".join(str(error).split())[:500] or type(error).__name__
    try:
        engine(probe)
    except Exception:  # noqa: BLE001  # that it fails is the finding; the first error says why
        return EngineFailed(f"the engine failed: {said}")
    return BadRequest(f"the model does not take these values: {said}")
