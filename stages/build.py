"""Build: a graph becomes an engine for one runtime on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, computed_field, field_validator, model_validator

from attar.engines.axis_profile import complete_profile
from attar.engines.graphs.inspection import count_nodes, find_node, list_training_nodes
from attar.engines.parity import measure_predictor_difference
from attar.engines.runtimes.runtime import (
    RUNTIMES,
    AxisProfile,
    BuildSpec,
    RefusedNode,
    Runtime,
    RuntimeName,
    load_runtime,
)
from attar.engines.thread_counts import find_fastest_thread_count
from attar.models.generation import find_decoding
from attar.models.task import Task, load_task
from attar.pipeline.core.errors import StageError, UnfitSettingsError, UnsupportedModelError
from attar.pipeline.core.stage import CodeName, Facts, Stage, UnusedSettingError
from attar.stages.artifacts import Engine, OnnxModel

NODES_SHOWN = 3
SEQUENCE_RUNTIMES = ("onnxruntime", "openvino")
"""The runtimes that are known to take every operator of the graph of a network that generates."""
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
        "cuda_graphs",
        "runtime_cache",
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
    cuda_graphs: bool = False
    """Whether TensorRT's kernels are recorded and then started together. It takes time off small
    networks that are asked with the same shapes again and again."""
    runtime_cache: bool = False
    """Whether the kernels that TensorRT-RTX compiles while an engine is used are kept in the user's
    cache folder, for the next process that opens it."""
    tolerance: float | None = Field(None, gt=0)
    """Largest ``|model - engine|``, times the largest answer where that is above 1. Not set: 1e-3,
    and more where the runtime rounds otherwise than ONNX Runtime, which answers for the model: 1e-2
    for fp16, 5e-2 for bf16 and int8 of OpenVINO, and on a GPU."""

    @field_validator("profile")
    @classmethod
    def _ascends(cls, profile: dict[str, AxisProfile]) -> dict[str, AxisProfile]:
        for axis, (least, usual, most) in profile.items():
            if not 0 <= least <= usual <= most or most == 0:
                raise ValueError(
                    f"{axis} must be three ascending sizes, smallest, usual, largest; {least}, "
                    f"{usual}, {most} are not"
                )
        return profile

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        unused = sorted(name for name in self.unknown_options if self.is_set(name))
        if unused:
            known = ", ".join(sorted(load_runtime(self.runtime).knows))
            message = f"{', '.join(unused)} means nothing to runtime {self.runtime!r}"
            raise UnusedSettingError(f"{message}, which knows {known}", *unused)
        return self

    @property
    def unknown_options(self) -> Set[str]:
        """The settings that the runtime does not have."""
        options = {"provider", "threads", "profile", *self.OPTIONS}
        return options - load_runtime(self.runtime).knows

    def is_set(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def list_options(self) -> Facts:
        """Return the options that are set."""
        return {name: getattr(self, name) for name in self.OPTIONS if self.is_set(name)}

    def deciding(self) -> Set[str]:
        return super().deciding() - self.unknown_options

    @computed_field(repr=False)  # type: ignore[prop-decorator]  # of pydantic, on a property
    @property
    def runtime_code(self) -> CodeName:
        """The class of the runtime, whose code counts in the key."""
        return RUNTIMES[self.runtime]

    @computed_field(repr=False)  # type: ignore[prop-decorator]  # of pydantic, on a property
    @property
    def lacks(self) -> str | None:
        """What this machine lacks to build or run the engine, or None.

        It counts in the key: a container may be given its host's GPU later. The arithmetic that a
        CPU has is part of the machine, so the precision is left out here.
        """
        runtime = load_runtime(self.runtime)
        spec = BuildSpec(provider=self.provider or runtime.provider, options=self.list_options())
        return runtime.explain_unbuildable(spec) or runtime.explain_unrunnable(spec)

    def check_settings(self) -> None:
        if why := self.explain_unfit(load_task(self.task)):
            raise UnfitSettingsError(why)

    def explain_unfit(self, task: Task) -> str | None:
        """Return why the runtime takes no graph of this task, whatever is trained; None if it may
        take them."""
        if self.runtime in SEQUENCE_RUNTIMES or find_decoding(task) is None:
            return None
        return (
            f"a network that generates cannot be built for {self.runtime!r}: TensorRT-RTX refuses "
            "operators of the loop over its steps, and TensorRT was not tried with it; use "
            f"{' or '.join(SEQUENCE_RUNTIMES)}"
        )

    def run(self, out: Path, *, model: OnnxModel) -> Facts:
        """Raises UnsupportedModelError when the runtime cannot take the graph,
        MissingDependencyError when its library is not installed, and StageError when a node of the
        graph is in training mode, the provider is unknown, the profile does not cover what the task
        promises, or the engine's answers are not the model's."""
        task, runtime = load_task(self.task), load_runtime(self.runtime)
        if why := self.explain_unfit(task):
            raise UnsupportedModelError(why)
        spec = self.make_spec(task, runtime, model.facts["precision"])
        check_model(model, runtime, self.runtime)
        if why := runtime.explain_unbuildable(spec):
            return {**self.describe_engine(model, spec), "why": why, "files": {}}
        files = build_graphs(model, runtime, out, spec)
        environment = runtime.describe_environment()
        built = {
            "files": {graph: file.name for graph, file in files.items()},
            "runtime_version": environment.version,
            "machine": environment.machine,
            "nodes": count_nodes(files.values()) if runtime.suffix == ".onnx" else {},
        }
        if why := runtime.explain_unrunnable(spec):
            return {**self.describe_engine(model, spec), **built, "why": why}
        threads = self.threads or find_fastest_thread_count(task, runtime, files, spec)
        spec = replace(spec, threads=threads)
        difference = self.prove_parity(task, runtime, model, files, spec)
        return {**self.describe_engine(model, spec), **built, "difference": difference}

    def make_spec(self, task: Task, runtime: Runtime, precision: str) -> BuildSpec:
        """Return what the engine is to be, without settings that the runtime does not have."""
        profile = complete_profile(self.profile, task) if "profile" in runtime.knows else {}
        provider, options = self.provider or runtime.provider, self.list_options()
        return BuildSpec(precision, self.threads or 1, provider, profile, options)

    def describe_engine(self, model: OnnxModel, spec: BuildSpec) -> Facts:
        """Return the facts that are known before anything is built."""
        profile = {axis: list(sizes) for axis, sizes in spec.profile.items()}
        return {
            "task": model.facts["task"],
            "graphs": list(model.facts["graphs"]),
            "runtime": self.runtime,
            "opened_by": RUNTIMES[self.runtime],
            "runtime_version": None,
            "provider": spec.provider,
            "threads": spec.threads,
            "precision": spec.precision,
            "parameters": model.facts["parameters"],
            "difference": None,
            "machine": {},
            "nodes": {},
            "why": None,
            "asked": {"profile": profile, "options": dict(spec.options)},
        }

    def prove_parity(
        self,
        task: Task,
        runtime: Runtime,
        model: OnnxModel,
        files: Mapping[str, Path],
        spec: BuildSpec,
    ) -> float:
        tolerance = self.tolerance or runtime.get_tolerance(spec.precision, spec.provider)
        hint = (
            "look at the graph; if it is sound, try precision = 'fp32' or another version of "
            f"{runtime.title}"
        )
        with model.open(threads=1) as expected, runtime.open(files, spec) as engine:
            return measure_predictor_difference(task, expected, engine, tolerance, hint)


def build_graphs(model: OnnxModel, runtime: Runtime, out: Path, spec: BuildSpec) -> dict[str, Path]:
    """Build the engine of every graph, and return its file by the graph's name."""
    files = {graph: out / f"{graph}{runtime.suffix}" for graph in model.facts["graphs"]}
    for graph, file in files.items():
        source = model.file(graph)
        if refused := runtime.find_refused_nodes(source, spec):
            nodes = format_refused_nodes(refused, source)
            raise UnsupportedModelError(
                f"{runtime.title} cannot take the graph: {nodes}; choose another runtime"
            )
        runtime.build(source, file, spec)
    return files


def check_model(model: OnnxModel, runtime: Runtime, name: str) -> None:
    """Check a model before it is built.

    Raises StageError for a node in training mode, UnsupportedModelError for a precision that the
    runtime does not have.
    """
    for graph in model.facts["graphs"]:
        if nodes := list_training_nodes(model.file(graph)):
            raise StageError(
                f"{', '.join(nodes)} of the graph is in training mode; export the network in "
                "evaluation mode"
            )
    if (precision := model.facts["precision"]) not in runtime.precisions:
        known = ", ".join(sorted(runtime.precisions))
        raise UnsupportedModelError(f"{name} has no precision {precision!r}; it has {known}")


def format_refused_nodes(refused: Sequence[RefusedNode], file: Path) -> str:
    """Return the first few nodes for a message. One without a name is looked for in the graph."""
    shown = [
        node if node.node else replace(node, node=find_node(file, node.operator))
        for node in refused[:NODES_SHOWN]
    ]
    more = len(refused) - NODES_SHOWN
    return "; ".join(map(str, shown)) + (f"; and {more} more" if more > 0 else "")
