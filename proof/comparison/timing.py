"""Timing: latency of several models on one CPU core, interleaved, so that all share the same
noise."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.proof.ledger.ledger import LatencySummary

Seconds = npt.NDArray[np.float64]
"""The time of each call; entry i of every model was taken in the same round."""
WARM_UP = 5  # calls of each model that are not counted: allocators, lazily made kernels, caches
MIN_ROUNDS = 20  # rounds, however slow the models are
SPINNING = (
    0.004  # seconds: longer than a pool of threads goes on spinning after another model's call
)


@contextmanager
def pin_to_core() -> Iterator[int | None]:
    """Pin this thread to one CPU, the last that it may use, and undo that afterwards.

    Yield None if the system cannot pin. Open the models before: threads that are started inside
    would be pinned too.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    allowed = os.sched_getaffinity(0)
    chosen = max(allowed)
    os.sched_setaffinity(0, {chosen})
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def pause_collection() -> Iterator[None]:
    """No garbage collection, which would be charged to whoever runs at that moment."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def time_interleaved(
    calls: Mapping[str, Callable[[], object]], rounds: int, seconds: float, settling: float = 0.0
) -> dict[str, Seconds]:
    """Time each call once a round, in an order that changes every round.

    Each is called once before it is timed, which brings its data to the caches, and for at least
    ``settling`` seconds. Timing stops after ``rounds``, or after ``seconds`` and at least 20
    rounds.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    order = np.random.default_rng(0)
    names = list(calls)
    taken: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    with pause_collection():
        for done in range(rounds):
            if done >= MIN_ROUNDS and time.perf_counter() > end:
                break
            for index in order.permutation(len(names)):
                taken[names[index]].append(time_call(calls[names[index]], settling))
    return {name: np.array(each) for name, each in taken.items()}


def time_call(call: Callable[[], object], settling: float = 0.0) -> float:
    settled = time.perf_counter() + settling
    call()
    while time.perf_counter() < settled:
        call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def summarize_times(seconds: Seconds, batch: int) -> LatencySummary:
    """Return the median and the 99th percentile of these calls.

    Not the mean: it counts the time that other processes took from a few calls.
    """
    p50, p99 = np.percentile(seconds, [50, 99])
    return LatencySummary(float(p50 * 1e6), float(p99 * 1e6), float(batch / p50))


def read_load_average() -> float:
    """Return how many processes wanted to run over the last minute: at most 1 on a quiet
    machine."""
    return os.getloadavg()[0]


def read_resident_bytes() -> int | None:
    """Return the resident bytes of this process, after freed memory was given back.

    Return None if there is no /proc.
    """
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return None
    trim: Any = getattr(
        ctypes.CDLL(None), "malloc_trim", None
    )  # glibc keeps freed pages, which would hide new ones
    if trim is not None:
        trim(0)
    return int(statm.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
