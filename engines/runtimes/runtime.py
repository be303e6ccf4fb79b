"""Runtime: what attar asks of whatever runs an engine, and which runtimes there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from attar.models.task import Predictor, Task
from attar.pipeline.core import names
from attar.pipeline.core.errors import MissingDependencyError, StageError, suggest_name

RuntimeName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
RUNTIMES: Mapping[str, str] = {
    "onnxruntime": "attar.engines.runtimes.onnxruntime:OnnxRuntime",
    "openvino": "attar.engines.runtimes.openvino:OpenVino",
    "tensorrt": "attar.engines.runtimes.tensorrt:TensorRt",
    "tensorrt-rtx": "attar.engines.runtimes.tensorrt:TensorRtRtx",
}
"""By the name that a recipe calls it; imported only when it is asked for, so that its code counts for its own targets alone."""

PRECISIONS = frozenset({"fp32", "fp16", "int8", "int8-dynamic"})
ROUNDING = 1e-3
"""What the same arithmetic in another order may differ by, of the magnitude of the answers (or 1)."""

AxisProfile = tuple[int, int, int]
"""Of one axis: the smallest, the usual one that kernels are chosen for, the largest."""


@dataclass(frozen=True)
class BuildSpec:
    """What a target asks of its engine."""

    precision: str = "fp32"
    threads: int = 1
    provider: str | None = None
    """Of a runtime that has several."""
    profile: Mapping[str, AxisProfile] = field(default_factory=dict)
    """For every dynamic axis of the inputs, by name; empty for a runtime that knows no profile."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those of ``Build.OPTIONS`` that the target sets, under the vendor's name."""


@dataclass(frozen=True)
class RefusedNode:
    """A node that a runtime cannot take."""

    node: str | None
    """None where the runtime names the operator alone."""
    operator: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.operator} {self.node!r}: {self.why}"
            if self.node
            else f"{self.operator}: {self.why}"
        )


@dataclass(frozen=True)
class EngineEnvironment:
    """What an engine depends on: it is only good where all of this is the same."""

    version: str
    """Of the runtime; the first two parts count."""
    machine: Mapping[str, Any]


class Runtime(ABC):
    """One runtime. Making one imports no library of its vendor; the methods do."""

    title: ClassVar[str]
    """How its vendor writes it."""
    suffix: ClassVar[str]
    """Of an engine's file."""
    knows: ClassVar[frozenset[str]] = frozenset()
    """The settings of ``Build`` that it has a use for, of ``provider``, ``threads``, ``profile`` and its options."""
    provider: ClassVar[str | None] = None
    """The one that is meant where none is named, of a runtime that has several."""
    precisions: ClassVar[frozenset[str]] = PRECISIONS
    """What a graph may be held in for it."""

    tolerances: ClassVar[Mapping[str, float]] = {}
    """By precision, how far its answers may be from the model's in ONNX Runtime, relative to the largest, where it rounds
    otherwise: fewer bits, or a step of int8 to the other side. A wrong kernel is off by more, and the gates judge the rest."""

    def get_tolerance(self, precision: str) -> float:
        """How far an engine's answers may be from its graph's, of their magnitude (or 1)."""
        return self.tolerances.get(precision, ROUNDING)

    @abstractmethod
    def native_content(self, asked: BuildSpec) -> str | None:
        """Return what of an engine's file runs as code of whoever wrote it, in words; None where the file is
        data alone. An engine that is native is opened only for who trusts its bundle."""

    @abstractmethod
    def describe_environment(self) -> EngineEnvironment:
        """Raises MissingDependencyError, with the extra to install, when the library is not there: see ``missing``."""

    @abstractmethod
    def find_refused_nodes(
        self, source: Path, task: Task, asked: BuildSpec
    ) -> Sequence[RefusedNode]:
        """The nodes of an ONNX file that it refuses, and why; none of them is moved elsewhere in silence."""

    @abstractmethod
    def build(self, source: Path, target: Path, task: Task, asked: BuildSpec) -> None:
        """From an ONNX file to an engine's, one file. Raises StageError with what the runtime said."""

    @abstractmethod
    def open(
        self, files: Mapping[str, Path], asked: BuildSpec
    ) -> AbstractContextManager[Predictor]:
        """The engines of named graphs as one function. Raises StageError for a file that is no engine for this place."""

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        """What hardware is missing to build an engine here; None where it can be built. It is asked first, and imports nothing of
        the vendor: a library that is missing besides is an error only where the hardware is there."""
        return None

    def explain_unrunnable(self, asked: BuildSpec) -> str | None:
        """What is missing to run an engine here; None where it can run. Asked where it can be built."""
        return self.explain_unbuildable(asked)

    def check_available(self, asked: BuildSpec) -> None:  # noqa: B027  # most runtimes have no parts that may be missing
        """Raises MissingDependencyError or StageError where the library lacks what an engine asks of it. Nothing is loaded."""

    def list_thread_counts(self) -> Sequence[int]:
        """The thread counts that are worth trying; one where threads mean nothing to it."""
        return [1]


def make_missing_error(library: str, extra: str) -> MissingDependencyError:
    """The error of a runtime whose library cannot be imported."""
    return MissingDependencyError(f"{library} is not installed; run: pip install 'attar[{extra}]'")


def load_runtime(name: str) -> Runtime:
    """The runtime that a recipe or a bundle calls so. Raises StageError for an unknown name."""
    if name not in RUNTIMES:
        raise StageError(f"there is no runtime {name!r}; {suggest_name(name, RUNTIMES)}")
    made: Runtime = names.load(RUNTIMES[name])()
    return made
