"""How many threads answer one sample fastest on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from attar.engines.axis_profile import choose_usual_sizes
from attar.engines.runtimes.runtime import BuildSpec, Runtime
from attar.models.task import Arrays, Predict, Predictor, Task
from attar.pipeline.core.progress import report_progress

ROUNDS = 15
"""Every count is timed so often, in turn."""
SLICE_SECONDS = 0.008
"""A round of one count: longer than a pool of threads spins after another count's call."""
WORTH = 0.9
"""More threads must take less than this share of the time."""


def find_fastest_thread_count(
    task: Task, runtime: Runtime, files: Mapping[str, Path], asked: BuildSpec
) -> int:
    """Return the thread count that answers one sample in the least time.

    All candidates are open and timed in turn.
    """
    on_cpu = runtime.find_device(asked.provider) == "cpu"
    counts = runtime.list_thread_counts() if on_cpu else [1]
    if len(counts) == 1:
        return counts[0]
    inputs = task.example(np.random.default_rng(0), **choose_usual_sizes(task))
    with ExitStack() as stack:
        opened = {
            count: stack.enter_context(runtime.open(files, replace(asked, threads=count)))
            for count in counts
        }
        calls = {count: bind_answer(task, predictor) for count, predictor in opened.items()}
        return select_thread_count(time_thread_counts(calls, inputs))


def bind_answer(task: Task, predictor: Predictor) -> Predict:
    return lambda inputs: task.answer(predictor.graphs, inputs)


def time_thread_counts(calls: Mapping[int, Predict], inputs: Arrays) -> dict[int, float]:
    """Return the median seconds a call.

    Half of each slice warms up, so that no candidate pays for the one before it.
    """
    taken: dict[int, list[float]] = {count: [] for count in calls}
    for done in range(ROUNDS):
        for count, call in calls.items():
            time_calls(call, inputs)
            taken[count].append(time_calls(call, inputs))
        report_progress("build", done + 1, ROUNDS, "timing thread counts")
    return {count: statistics.median(seconds) for count, seconds in taken.items()}


def time_calls(call: Predict, inputs: Arrays) -> float:
    """Return the seconds a call, over as many as fit in half a slice, at least one."""
    start, calls = time.perf_counter(), 0
    while True:
        call(inputs)
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed > SLICE_SECONDS / 2:
            return elapsed / calls


def select_thread_count(seconds: Mapping[int, float]) -> int:
    """Return the smallest count, or a larger one that is over 10 % faster than the best smaller."""
    best = min(seconds)
    for count in sorted(seconds):
        if seconds[count] < WORTH * seconds[best]:
            best = count
    return best
