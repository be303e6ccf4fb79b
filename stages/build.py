"""Build: a graph becomes an engine for one runtime on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from attar.models.task import Arrays, Predict, Predictor, Task, load_task
from attar.pipeline.errors import StageError
from attar.pipeline.progress import advance
from attar.pipeline.stage import CodeName, Facts, Stage
from attar.stages.artifacts import Engine, OnnxModel
from attar.stages.parity import dynamic_axes, largest_difference
from attar.stages.precision.graphs import count_nodes, in_training
from attar.stages.runtimes import runtime as runtimes
from attar.stages.runtimes.runtime import RUNTIMES, Asked, Runtime

ROUNDS = 15  # every candidate is timed so often, in turn
SLICE = 0.008  # seconds of a round: longer than a pool of threads goes on spinning after another candidate's call
WORTH = 0.9  # more threads must take less than this share of the time


class Build(Stage[Engine]):
    """Fusions, kernels and memory layout are decided here, once; opening the engine decides nothing more."""

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    runtime: Literal["onnxruntime"] = "onnxruntime"
    """What runs the engine."""
    provider: str = "CPUExecutionProvider"
    """ONNX Runtime's execution provider; one that this machine does not have is an error."""
    threads: int | None = Field(None, ge=1)
    """Intra-op threads; not set: the count that answers one sample fastest here, a larger one only if it saves 10 %."""
    tolerance: float = Field(1e-3, gt=0)
    """Largest ``|model - engine|``, times the largest answer where that is above 1."""

    @classmethod
    def meaningless(cls, settings: Mapping[str, Any]) -> Set[str]:
        name = settings.get("runtime", cls.model_fields["runtime"].default)
        return {"provider", "threads"} - runtimes.load(name).knows if name in RUNTIMES else set()

    def following(self) -> Sequence[str]:
        return (*self.follows, RUNTIMES[self.runtime])

    def run(self, out: Path, *, model: OnnxModel) -> Facts:
        """Raises StageError when a node of the graph is in training mode, when the provider is not here, and when the engine's
        answers are not the model's."""
        task, runtime = load_task(self.task), runtimes.load(self.runtime)
        asked = Asked(precision=model.facts["precision"], provider=self.provider)
        files = {graph: out / f"{graph}{runtime.suffix}" for graph in model.facts["graphs"]}
        for graph, file in files.items():
            if found := in_training(model.file(graph)):
                raise StageError(f"{', '.join(found)} of the graph is in training mode; export the network in evaluation mode")
            runtime.build(model.file(graph), file, task, asked)
        asked = replace(asked, threads=self.threads or fastest(task, runtime, files, asked))
        environment = runtime.environment()
        with model.open(threads=1) as expected, runtime.opened(files, asked) as got:
            other = f"another version than {self.runtime} {environment.version}"
            hint = f"look at the graph; if it is sound, try precision = 'fp32' or {other}"
            difference = largest_difference(task, expected, got, self.tolerance, hint)
        return {
            "task": model.facts["task"],
            "graphs": list(files),
            "files": {graph: file.name for graph, file in files.items()},
            "runtime": self.runtime,
            "runtime_version": environment.version,
            "provider": self.provider,
            "threads": asked.threads,
            "precision": model.facts["precision"],
            "parameters": model.facts["parameters"],
            "difference": difference,
            "machine": environment.machine,
            "nodes": count_nodes(files.values()),
        }


def fastest(task: Task, runtime: Runtime, files: Mapping[str, Path], asked: Asked) -> int:
    """The thread count that answers one sample in the least time, all candidates open and timed in turn."""
    counts = runtime.counts()
    if len(counts) == 1:
        return counts[0]
    sizes = {axis: 1 if axis == "batch" else high for axis, (_, high) in dynamic_axes(task).items()}
    inputs = task.example(np.random.default_rng(0), **sizes)
    with ExitStack() as stack:
        opened = {count: stack.enter_context(runtime.opened(files, replace(asked, threads=count))) for count in counts}
        calls = {count: answering(task, predictor) for count, predictor in opened.items()}
        return chosen(times(calls, inputs))


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
