"""The interface of a runtime that builds and opens engines, and the list of runtimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from attar.engines.cpu import describe_machine, list_core_counts
from attar.models.task import Predictor
from attar.models.tensors import Arrays, TensorSpec, find_input_mismatch
from attar.pipeline.core import names
from attar.pipeline.core.errors import MissingDependencyError, StageError, suggest_name
from attar.pipeline.keys.machine import count_cores

RuntimeName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
RUNTIMES: Mapping[str, str] = {
    "onnxruntime": "attar.engines.runtimes.onnxruntime:OnnxRuntime",
    "openvino": "attar.engines.runtimes.openvino:OpenVino",
    "tensorrt": "attar.engines.runtimes.tensorrt:TensorRt",
    "tensorrt-rtx": "attar.engines.runtimes.tensorrt:TensorRtRtx",
}
"""The class of each runtime by its name in a recipe.

It is imported only when it is used, so that its code counts for its own targets alone.
"""

PRECISIONS = frozenset({"fp32", "fp16", "int8", "int8-dynamic"})
ROUNDING = 1e-3
"""How far the same arithmetic in another order may differ, relative to the answers (or 1)."""

AxisProfile = tuple[int, int, int]
"""The smallest size of an axis, the usual one that kernels are chosen for, and the largest."""


@dataclass(frozen=True)
class BuildSpec:
    """What a target wants its engine to be."""

    precision: str = "fp32"
    threads: int = 1
    provider: str | None = None
    """The execution provider, of a runtime that has several."""
    profile: Mapping[str, AxisProfile] = field(default_factory=dict)
    """The sizes of every dynamic axis of the inputs; empty if the runtime has no profile."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options of ``Build.OPTIONS`` that the target sets, under the vendor's name."""


@dataclass(frozen=True)
class RefusedNode:
    """A node that a runtime cannot run."""

    node: str | None
    """None if the runtime names only the operator."""
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
    """What an engine depends on. It runs only where all of this is the same."""

    version: str
    """The runtime's version, of which the first two parts count."""
    machine: Mapping[str, Any]


class Runtime(ABC):
    """One runtime. Only its methods import the vendor's library."""

    title: ClassVar[str]
    """The name as its vendor writes it."""
    suffix: ClassVar[str]
    """The suffix of an engine's file."""
    knows: ClassVar[frozenset[str]] = frozenset()
    """The settings of ``Build`` that it uses: ``provider``, ``threads``, ``profile``, options."""
    provider: ClassVar[str | None] = None
    """The default provider, of a runtime that has several."""
    precisions: ClassVar[frozenset[str]] = PRECISIONS
    """The precisions of graphs that it runs."""

    tolerances: ClassVar[Mapping[str, float]] = {}
    """How far answers may be from the model's in ONNX Runtime, by precision.

    They are relative to the largest answer. Only precisions are listed in which it rounds
    otherwise: with fewer bits, or to the next step of int8. A wrong kernel is off by more, and the
    gates judge the rest.
    """

    def get_tolerance(self, precision: str, provider: str | None = None) -> float:
        """Return how far answers may be from the graph's, relative to their magnitude (or 1)."""
        return self.tolerances.get(precision, ROUNDING)

    @abstractmethod
    def native_content(self, asked: BuildSpec) -> str | None:
        """Return what of an engine's file runs as native code, in words; None if it is data alone.

        An engine that is native is opened only for those who trust its bundle.
        """

    @abstractmethod
    def describe_environment(self) -> EngineEnvironment:
        """Return the version and the machine.

        Raises MissingDependencyError, with the extra to install, if the library is not there.
        """

    @abstractmethod
    def find_refused_nodes(self, source: Path, asked: BuildSpec) -> Sequence[RefusedNode]:
        """Return the nodes of an ONNX file that it cannot run, and why.

        It moves none of them to another device in silence.
        """

    @abstractmethod
    def build(self, source: Path, target: Path, asked: BuildSpec) -> None:
        """Write the engine of an ONNX file, one file.

        Raises StageError with the runtime's message.
        """

    @abstractmethod
    def open(
        self, files: Mapping[str, Path], asked: BuildSpec
    ) -> AbstractContextManager[Predictor]:
        """Open the engines of named graphs as one function.

        Raises StageError for a file that is no engine for this machine.
        """

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        """Return which hardware is missing to build an engine here, or None.

        It is called first, and imports nothing of the vendor: a library that is missing too is an
        error only where the hardware is there.
        """
        return None

    def explain_unrunnable(self, asked: BuildSpec) -> str | None:
        """Return what is missing to run an engine here, or None. It is called where it can be
        built."""
        return self.explain_unbuildable(asked)

    def find_device(self, provider: str | None) -> str:
        """Return what an engine computes on: ``cpu`` or ``cuda``."""
        return "cpu"

    def check_available(self, asked: BuildSpec) -> None:  # noqa: B027  # most lack no parts
        """Check that the library has what an engine needs, without loading it.

        Raises MissingDependencyError or StageError if it does not.
        """

    def list_thread_counts(self) -> Sequence[int]:
        """Return the thread counts worth trying: one if the runtime has no use for threads."""
        return [1]


class CpuRuntime(Runtime):
    """A runtime whose engines run on the threads of a CPU, and depend on its kind."""

    @abstractmethod
    def get_version(self) -> str:
        """Return the library's version."""

    def describe_environment(self) -> EngineEnvironment:
        return EngineEnvironment(self.get_version(), describe_machine())

    def list_thread_counts(self) -> Sequence[int]:
        return list_core_counts(count_cores())


def check_threads(threads: int) -> int:
    """Return the count. Raises StageError if it is below 1."""
    if threads < 1:
        raise StageError(f"an engine on {threads} threads was asked for; give 1 or more")
    return threads


def make_call_error(
    title: str, specs: Sequence[TensorSpec], inputs: Arrays, message: str
) -> StageError:
    """Return the error of a call that failed. It says first which inputs do not fit the graph."""
    mismatch = find_input_mismatch(specs, inputs)
    return StageError(mismatch or f"{title} failed: {' '.join(message.split())}")


def make_missing_error(library: str, extra: str) -> MissingDependencyError:
    """Return the error of a runtime whose library cannot be imported."""
    return MissingDependencyError(f"{library} is not installed; run: pip install 'attar[{extra}]'")


def load_runtime(name: str) -> Runtime:
    """Return the runtime of this name. Raises StageError for an unknown name."""
    if name not in RUNTIMES:
        raise StageError(f"there is no runtime {name!r}; {suggest_name(name, RUNTIMES)}")
    made: Runtime = names.load_object(RUNTIMES[name])()
    return made
