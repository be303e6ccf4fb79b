"""Calls of an engine for a batch, and the cause if one fails: a request, or the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import accumulate
from time import perf_counter_ns
from typing import TypeAlias

import numpy as np

from attar.bundle.engines import list_engines
from attar.models.task import Array, Arrays, Predict
from attar.serving.core.errors import BadRequestError, EngineFailedError, RequestError

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
Outputs: TypeAlias = dict[str, Array]
log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One request in the batcher; times are nanoseconds of ``perf_counter_ns``."""

    inputs: Arrays
    rows: int
    deadline: int
    future: asyncio.Future[Outputs]
    """Gets the outputs, or RequestError; cancelling it drops the work."""
    shapes: Shapes
    model: str = ""
    """The name that was asked: several may share the engines."""
    arrived: int = field(default_factory=perf_counter_ns)
    started: int = 0
    ended: int = 0
    shared: int = 0
    """Rows of the call that answered it."""


@dataclass(slots=True)
class EngineCall:
    """One call of an engine, successful or not."""

    rows: int
    nanoseconds: int
    models: AbstractSet[str] = frozenset()
    """Names of the models with a request in it; empty if the engine was probed."""


@dataclass(slots=True)
class BatchResult:
    results: Sequence[Outputs | RequestError]
    """The outcome of each request of the batch."""
    calls: Sequence[EngineCall]
    broken: bool = False
    """Whether the engine no longer answers what it answered before."""


def compute_batch(
    engine: Predict, batch: Sequence[QueuedRequest], probe: Arrays, calls: list[EngineCall]
) -> BatchResult:
    """Return the outputs of each request; ``calls`` gets each call once it is over.

    A batch that fails is computed again in halves, so that only the requests that cause it fail.
    """
    results = call_engine(engine, batch, probe, calls)
    is_broken = any(isinstance(result, EngineFailedError) for result in results)
    return BatchResult(results, calls, is_broken)


def check_engine(engine: Predict, probe: Arrays, calls: list[EngineCall]) -> BatchResult:
    """Return the result of a batch without requests: whether the engine answers its probe, both
    of a pair. ``calls`` gets each call once it is over."""
    failures = [run_probe(each, probe, calls) for each in list_engines(engine)]
    return BatchResult([], calls, any(failures))


def call_engine(
    engine: Predict, batch: Sequence[QueuedRequest], probe: Arrays, calls: list[EngineCall]
) -> list[Outputs | RequestError]:
    started, failure = perf_counter_ns(), None
    rows = [work.rows for work in batch]
    shared = sum(rows)
    try:
        found: list[Outputs | RequestError] = [*split_outputs(engine(join_inputs(batch)), rows)]
    except Exception as error:  # noqa: BLE001  # whatever an engine raises, its callers are told and others served
        failure = error
    ended = perf_counter_ns()
    calls.append(EngineCall(shared, ended - started, {work.model for work in batch}))
    for work in batch:
        work.started, work.ended, work.shared = started, ended, shared
    if failure is None:
        return found
    if len(batch) == 1:
        return [find_cause(engine, probe, failure, calls)]
    log.warning(
        "a batch of %d rows failed and is asked again in halves: %s",
        shared,
        describe_error(failure),
    )
    return call_in_halves(engine, batch, probe, calls)


def call_in_halves(
    engine: Predict, batch: Sequence[QueuedRequest], probe: Arrays, calls: list[EngineCall]
) -> list[Outputs | RequestError]:
    """Return the results of both halves; if the first finds the engine broken, of that alone."""
    middle = len(batch) // 2
    found = call_engine(engine, batch[:middle], probe, calls)
    broken = next((each for each in found if isinstance(each, EngineFailedError)), None)
    rest = batch[middle:]
    return found + (
        [EngineFailedError(str(broken)) for _ in rest]
        if broken
        else call_engine(engine, rest, probe, calls)
    )


def join_inputs(batch: Sequence[QueuedRequest]) -> Arrays:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([work.inputs[name] for work in batch]) for name in batch[0].inputs}


def split_outputs(outputs: Outputs, rows: Sequence[int]) -> list[Outputs]:
    if len(rows) == 1:
        return [outputs]
    ends = list(accumulate(rows))
    return [
        {name: array[end - count : end] for name, array in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def find_cause(
    engine: Predict, probe: Arrays, error: Exception, calls: list[EngineCall]
) -> RequestError:
    """Return an error of the request if the engine still answers its probe, else of the engine."""
    if run_probe(engine, probe, calls):
        return EngineFailedError(f"the engine failed: {describe_error(error)}")
    return BadRequestError(f"the model does not take these values: {describe_error(error)}")


def run_probe(engine: Predict, probe: Arrays, calls: list[EngineCall]) -> Exception | None:
    """Return the error of the engine for its probe, if there is one."""
    started, failure = perf_counter_ns(), None
    try:
        engine(probe)
    except Exception as error:  # noqa: BLE001  # that it fails is the finding
        failure = error
    rows = len(next(iter(probe.values())))
    calls.append(EngineCall(rows, perf_counter_ns() - started))
    return failure


def describe_error(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
