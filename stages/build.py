"""Build: a graph becomes an engine for one runtime on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, computed_field, field_validator, model_validator

from attar.engines.graphs.inspection import count_nodes, find_node, list_training_nodes
from attar.engines.parity import list_dynamic_axes, measure_largest_difference
from attar.engines.runtimes import runtime as runtimes
from attar.engines.runtimes.runtime import RUNTIMES, AxisProfile, BuildSpec, RefusedNode, Runtime, RuntimeName
from attar.models.task import Arrays, Predict, Predictor, Task, load_task
from attar.pipeline.core.errors import StageError, UnsupportedModelError, suggest_name
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import CodeName, Facts, Stage, UnusedSettingError
from attar.stages.artifacts import Engine, OnnxModel

ROUNDS = 15  # every candidate is timed so often, in turn
SLICE = 0.008  # seconds of a round: longer than a pool of threads goes on spinning after another candidate's call
WORTH = 0.9  # more threads must take less than this share of the time
SHOWN = 3  # refused nodes that a message names
Compute = Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]


class Build(Stage[Engine]):
    """Builds an engine: fusions, kernels and memory layout are decided once, not at opening.

    If the target's hardware is not here, the engine is empty, or is built and not run: its fact
    ``why`` says what is missing, and its target is ``not run here``. Options bear the names of the
    runtime's vendor; one that the runtime does not have is an error.
    """

    bound_to_machine: ClassVar[bool] = True
    OPTIONS: ClassVar[tuple[str, ...]] = (
        "compute",
        "builder_optimization_level",
        "workspace",
        "hardware_compatibility",
        "version_compatible",
    )
    """Options of some runtimes, besides ``provider``, ``threads`` and ``profile``."""

    task: CodeName
    runtime: RuntimeName = "onnxruntime"
    """What runs the engine."""
    provider: str | None = None
    """ONNX Runtime's execution provider, as it writes it; not set: ``CPUExecutionProvider``. No
    other takes its place."""
    threads: int | None = Field(None, ge=1)
    """Intra-op threads; not set: the count that answers one sample fastest here, a larger one only
    if it saves 10 %."""
    profile: dict[str, AxisProfile] = {}
    """TensorRT's optimization profile: for a dynamic axis its smallest size, the one that kernels
    are chosen for, its largest. An axis that is not named gets what the task promises in
    ``ranges``; of the batch the smallest is the usual size, of others the largest."""
    compute: tuple[Compute, ...] = ()
    """Compute capabilities that one TensorRT-RTX engine is built for, such as ``["8.6", "8.9"]``;
    not set: its own choice."""
    builder_optimization_level: int | None = Field(None, ge=0, le=5)
    """How long TensorRT looks for fast kernels."""
    workspace: int | None = Field(None, ge=1)
    """MiB that TensorRT's kernels may use for intermediate results."""
    hardware_compatibility: Literal["ampere_plus", "same_compute_capability"] | None = None
    """Which GPUs besides the one that built it a TensorRT engine runs on."""
    version_compatible: bool = False
    """Whether later versions of TensorRT can run the engine."""
    tolerance: float | None = Field(None, gt=0)
    """Largest ``|model - engine|``, times the largest answer where that is above 1. Not set: 1e-3,
    and more where the runtime rounds otherwise than ONNX Runtime, which answers for the model: 1e-2
    for fp16, 5e-2 for bf16 and int8 of OpenVINO."""

    @field_validator("profile")
    @classmethod
    def _ascends(cls, profile: dict[str, AxisProfile]) -> dict[str, AxisProfile]:
        for axis, (least, usual, most) in profile.items():
            if not 0 <= least <= usual <= most or most == 0:
                raise ValueError(
                    f"{axis} must be three ascending sizes, smallest, usual, largest; {least}, {usual}, {most} are not"
                )
        return profile

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        unused = sorted(name for name in self.unknown_options if self.is_set(name))
        if unused:
            known = ", ".join(sorted(runtimes.load_runtime(self.runtime).knows))
            message = f"{', '.join(unused)} means nothing to runtime {self.runtime!r}"
            raise UnusedSettingError(f"{message}, which knows {known}", *unused)
        return self

    @property
    def unknown_options(self) -> Set[str]:
        """The settings that the runtime does not have."""
        options = {"provider", "threads", "profile", *self.OPTIONS}
        return options - runtimes.load_runtime(self.runtime).knows

    def is_set(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def list_options(self) -> dict[str, Any]:
        """Return the options that are set."""
        return {name: getattr(self, name) for name in self.OPTIONS if self.is_set(name)}

    def deciding(self) -> Set[str]:
        return super().deciding() - self.unknown_options

    @computed_field(repr=False)  # type: ignore[prop-decorator]  # pydantic's decorator reads a property; mypy wants none above one
    @property
    def runtime_code(self) -> CodeName:
        """The class of the runtime, whose code counts in the key."""
        return RUNTIMES[self.runtime]

    @computed_field(repr=False)  # type: ignore[prop-decorator]  # pydantic's decorator reads a property; mypy wants none above one
    @property
    def lacks(self) -> str | None:
        """What this machine lacks to build or run the engine, or None.

        It counts in the key: a container may be given its host's GPU later. The arithmetic that a
        CPU has is part of the machine, so the precision is left out here.
        """
        runtime = runtimes.load_runtime(self.runtime)
        asked = BuildSpec(provider=self.provider or runtime.provider, options=self.list_options())
        return runtime.explain_unbuildable(asked) or runtime.explain_unrunnable(asked)

    def run(self, out: Path, *, model: OnnxModel) -> Facts:
        """Raises UnsupportedModelError when the runtime cannot take the graph,
        MissingDependencyError when its library is not installed, and StageError when a node of the
        graph is in training mode, the provider is unknown, the profile does not cover what the task
        promises, or the engine's answers are not the model's."""
        task, runtime = load_task(self.task), runtimes.load_runtime(self.runtime)
        asked = self.make_spec(task, runtime, model.facts["precision"])
        check_model(model, runtime, self.runtime)
        if why := runtime.explain_unbuildable(asked):
            return self.describe_engine(model, asked) | {"why": why, "files": {}}
        files = {graph: out / f"{graph}{runtime.suffix}" for graph in model.facts["graphs"]}
        for graph, file in files.items():
            if refused := runtime.find_refused_nodes(model.file(graph), task, asked):
                nodes = format_refused_nodes(refused, model.file(graph))
                raise UnsupportedModelError(f"{runtime.title} cannot take the graph: {nodes}; choose another runtime")
            runtime.build(model.file(graph), file, task, asked)
        environment = runtime.describe_environment()
        made = {
            "files": {graph: file.name for graph, file in files.items()},
            "runtime_version": environment.version,
            "machine": environment.machine,
            "nodes": count_nodes(files.values()) if runtime.suffix == ".onnx" else {},
        }
        if why := runtime.explain_unrunnable(asked):
            return self.describe_engine(model, asked) | made | {"why": why}
        asked = replace(asked, threads=self.threads or find_fastest_thread_count(task, runtime, files, asked))
        proven = self.prove_parity(task, runtime, model, files, asked)
        return self.describe_engine(model, asked) | made | {"difference": proven}

    def make_spec(self, task: Task, runtime: Runtime, precision: str) -> BuildSpec:
        """Return what the engine is to be, without settings that the runtime does not have."""
        profile = complete_profile(self.profile, task) if "profile" in runtime.knows else {}
        return BuildSpec(precision, self.threads or 1, self.provider or runtime.provider, profile, self.list_options())

    def describe_engine(self, model: OnnxModel, asked: BuildSpec) -> dict[str, Any]:
        """Return the facts that are known before anything is built."""
        return {
            "task": model.facts["task"],
            "graphs": list(model.facts["graphs"]),
            "runtime": self.runtime,
            "opened_by": RUNTIMES[self.runtime],
            "runtime_version": None,
            "provider": asked.provider,
            "threads": asked.threads,
            "precision": asked.precision,
            "parameters": model.facts["parameters"],
            "difference": None,
            "machine": {},
            "nodes": {},
            "why": None,
            "asked": {"profile": {axis: list(sizes) for axis, sizes in asked.profile.items()}, "options": dict(asked.options)},
        }

    def prove_parity(self, task: Task, runtime: Runtime, model: OnnxModel, files: Mapping[str, Path], asked: BuildSpec) -> float:
        tolerance = self.tolerance or runtime.get_tolerance(asked.precision)
        hint = f"look at the graph; if it is sound, try precision = 'fp32' or another version of {runtime.title}"
        with model.open(threads=1) as expected, runtime.open(files, asked) as got:
            return measure_largest_difference(task, expected, got, tolerance, hint)


def check_model(model: OnnxModel, runtime: Runtime, name: str) -> None:
    """Check a model before it is built.

    Raises StageError for a node in training mode, UnsupportedModelError for a precision that the
    runtime does not have.
    """
    for graph in model.facts["graphs"]:
        if found := list_training_nodes(model.file(graph)):
            raise StageError(f"{', '.join(found)} of the graph is in training mode; export the network in evaluation mode")
    if (precision := model.facts["precision"]) not in runtime.precisions:
        raise UnsupportedModelError(f"{name} has no precision {precision!r}; it has {', '.join(sorted(runtime.precisions))}")


def format_refused_nodes(refused: Sequence[RefusedNode], file: Path) -> str:
    """Return the first few nodes for a message."""
    named = [each if each.node else replace(each, node=find_node(file, each.operator)) for each in refused[:SHOWN]]
    more = len(refused) - SHOWN
    return "; ".join(map(str, named)) + (f"; and {more} more" if more > 0 else "")


def complete_profile(profile: Mapping[str, AxisProfile], task: Task) -> dict[str, AxisProfile]:
    """Return the profile with an entry for every dynamic axis.

    Raises StageError for an unknown axis, one without sizes in the profile and the task, and sizes
    that the task promises and the profile leaves out.
    """
    ranges = list_dynamic_axes(task)
    for axis, (least, _, most) in profile.items():
        if axis not in ranges:
            raise StageError(f"profile: {type(task).__name__} has no dynamic axis {axis!r}; {suggest_name(axis, ranges)}")
        low, high = ranges[axis]
        if least > low or most < high:
            raise StageError(
                f"profile: {axis} goes from {least} to {most}, but {type(task).__name__} promises "
                f"{low} to {high}; "
                "widen the profile, or promise less in `ranges`"
            )
    usual = choose_usual_sizes(task)
    return {axis: profile.get(axis, (low, usual[axis], high)) for axis, (low, high) in ranges.items()}


def choose_usual_sizes(task: Task) -> dict[str, int]:
    """Return the sizes of one sample, as large as it may be."""
    return {axis: low if axis == "batch" else high for axis, (low, high) in list_dynamic_axes(task).items()}


def find_fastest_thread_count(task: Task, runtime: Runtime, files: Mapping[str, Path], asked: BuildSpec) -> int:
    """Return the thread count that answers one sample in the least time.

    All candidates are open and timed in turn.
    """
    counts = runtime.list_thread_counts()
    if len(counts) == 1:
        return counts[0]
    inputs = task.example(np.random.default_rng(0), **choose_usual_sizes(task))
    with ExitStack() as stack:
        opened = {count: stack.enter_context(runtime.open(files, replace(asked, threads=count))) for count in counts}
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
        if elapsed > SLICE / 2:
            return elapsed / calls


def select_thread_count(seconds: Mapping[int, float]) -> int:
    """Return the smallest count, or a larger one that is over 10 % faster than the best smaller."""
    best = min(seconds)
    for count in sorted(seconds):
        if seconds[count] < WORTH * seconds[best]:
            best = count
    return best
