"""Build: a graph becomes an engine for one runtime on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from attar.models.task import Arrays, Predict, Predictor, Task, load_task
from attar.pipeline.errors import StageError
from attar.pipeline.progress import advance
from attar.pipeline.stage import CodeName, Facts, Stage
from attar.stages.artifacts import Engine, OnnxModel
from attar.stages.parity import dynamic_axes, largest_difference
from attar.stages.precision.graphs import count_nodes, in_training
from attar.stages.runtimes import onnxruntime

ROUNDS = 15  # every candidate is timed so often, in turn
SLICE = 0.008  # seconds of a round: longer than a pool of threads goes on spinning after another candidate's call
WORTH = 0.9  # more threads must take less than this share of the time


@dataclass(frozen=True)
class Runtime:
    """What Build needs to know of a runtime."""

    write: Callable[[Path, Path, str], None]
    """From a graph, to a file, for a provider."""
    opened: Callable[[Mapping[str, Path], int, str], AbstractContextManager[Predictor]]
    """Open what ``write`` wrote, with so many threads, on a provider."""
    version: Callable[[], str]


def as_written(files: Mapping[str, Path], threads: int, provider: str) -> AbstractContextManager[Predictor]:
    return onnxruntime.opened(files, threads, provider, optimize=False)


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime(onnxruntime.write_optimized, as_written, onnxruntime.version),
}


class Build(Stage[Engine]):
    """Fusions, kernels and memory layout are decided here, once; opening the engine decides nothing more."""

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    runtime: Literal["onnxruntime"] = "onnxruntime"
    provider: str = onnxruntime.CPU
    threads: int | None = Field(None, ge=1)
    """Intra-op threads; None: the count that answers one sample fastest here, a larger one only if it saves 10 %."""
    tolerance: float = Field(1e-3, gt=0)
    """Largest ``|model - engine|``, times the largest answer where that is above 1."""

    def run(self, out: Path, *, model: OnnxModel) -> Facts:
        """Raises StageError when a node of the graph is in training mode, when the provider is not here, and when the engine's
        answers are not the model's."""
        task, runtime = load_task(self.task), RUNTIMES[self.runtime]
        files = {graph: out / f"{graph}.onnx" for graph in model.facts["graphs"]}
        for graph, file in files.items():
            if found := in_training(model.file(graph)):
                raise StageError(f"{', '.join(found)} of the graph is in training mode; export the network in evaluation mode")
            runtime.write(model.file(graph), file, self.provider)
        threads = self.threads or self.fastest(task, runtime, files)
        with model.open(threads=1) as expected, runtime.opened(files, threads, self.provider) as got:
            other = f"another version than {self.runtime} {runtime.version()}"
            hint = f"look at the graph; if it is sound, try precision = 'fp32' or {other}"
            difference = largest_difference(task, expected, got, self.tolerance, hint)
        return {
            "task": model.facts["task"],
            "graphs": list(files),
            "runtime": self.runtime,
            "runtime_version": runtime.version(),
            "provider": self.provider,
            "threads": threads,
            "precision": model.facts["precision"],
            "parameters": model.facts["parameters"],
            "difference": difference,
            "machine": onnxruntime.machine(),
            "nodes": count_nodes(files.values()),
        }

    def fastest(self, task: Task, runtime: Runtime, files: Mapping[str, Path]) -> int:
        """The thread count that answers one sample in the least time, all candidates open and timed in turn."""
        counts = list(candidates(onnxruntime.cores()))
        if len(counts) == 1:
            return counts[0]
        sizes = {axis: 1 if axis == "batch" else high for axis, (_, high) in dynamic_axes(task).items()}
        inputs = task.example(np.random.default_rng(0), **sizes)
        with ExitStack() as stack:
            opened = {count: stack.enter_context(runtime.opened(files, count, self.provider)) for count in counts}
            calls = {count: answering(task, predictor) for count, predictor in opened.items()}
            return chosen(times(calls, inputs))


def candidates(cores: int) -> Iterator[int]:
    """1, 2, 4, ... and every core."""
    count = 1
    while count < cores:
        yield count
        count *= 2
    yield cores


def answering(task: Task, predictor: Predictor) -> Predict:
    return lambda inputs: task.answer(predictor.graphs, inputs)


def times(calls: Mapping[int, Predict], inputs: Arrays) -> dict[int, float]:
    """Median seconds a call. Half of each slice warms up, so that no candidate pays for the one before it."""
    taken: dict[int, list[float]] = {count: [] for count in calls}
    for done in range(ROUNDS):
        for count, call in calls.items():
            seconds_a_call(call, inputs)
            taken[count].append(seconds_a_call(call, inputs))
        advance("build", done + 1, ROUNDS, "timing thread counts")
    return {count: statistics.median(seconds) for count, seconds in taken.items()}


def seconds_a_call(call: Predict, inputs: Arrays) -> float:
    """Over as many calls as fit in half a slice, at least one."""
    start, calls = time.perf_counter(), 0
    while True:
        call(inputs)
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed > SLICE / 2:
            return elapsed / calls


def chosen(seconds: Mapping[int, float]) -> int:
    """The smallest count unless a larger one is more than 10 % faster than the best smaller one."""
    best = min(seconds)
    for count in sorted(seconds):
        if seconds[count] < WORTH * seconds[best]:
            best = count
    return best
