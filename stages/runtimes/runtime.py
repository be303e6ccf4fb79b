"""Runtime: what attar asks of whatever runs an engine, and which runtimes there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from attar.models.task import Predictor, Task
from attar.pipeline import names
from attar.pipeline.errors import StageError, did_you_mean

RUNTIMES: Mapping[str, str] = {
    "onnxruntime": "attar.stages.runtimes.onnxruntime:OnnxRuntime",
}
"""By the name that a recipe calls it; imported only when it is asked for, so that its code counts for its own targets alone."""

Sizes = tuple[int, int, int]
"""Of one axis: the smallest, the usual one that kernels are chosen for, the largest."""


@dataclass(frozen=True)
class Asked:
    """What a target asks of its engine."""

    precision: str = "fp32"
    threads: int = 1
    provider: str = "CPUExecutionProvider"
    profile: Mapping[str, Sizes] = field(default_factory=dict)
    """By the name of a dynamic axis."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only some runtimes know, under the vendor's name."""


@dataclass(frozen=True)
class Refused:
    """A node that a runtime cannot take."""

    node: str
    operator: str
    why: str

    def __str__(self) -> str:
        return f"{self.operator} {self.node!r}: {self.why}"


@dataclass(frozen=True)
class Environment:
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
    """The options of ``Asked`` that it has a use for."""

    @abstractmethod
    def environment(self) -> Environment:
        """Raises Missing, with the extra to install, when the library is not there."""

    @abstractmethod
    def supports(self, source: Path, task: Task, asked: Asked) -> Sequence[Refused]:
        """The nodes of an ONNX file that it refuses, and why; none of them is moved elsewhere in silence."""

    @abstractmethod
    def build(self, source: Path, target: Path, task: Task, asked: Asked) -> None:
        """From an ONNX file to an engine's. Raises StageError with what the runtime said."""

    @abstractmethod
    def opened(self, files: Mapping[str, Path], asked: Asked) -> AbstractContextManager[Predictor]:
        """The engines of named graphs as one function. Raises StageError for a file that is no engine for this place."""

    def unbuildable(self, asked: Asked) -> str | None:
        """What hardware is missing to build an engine here; None where it can be built. A library that is missing is an error."""
        return None

    def unrunnable(self, asked: Asked) -> str | None:
        """What is missing to run an engine here; None where it can run."""
        return self.unbuildable(asked)

    def counts(self) -> Sequence[int]:
        """The thread counts that are worth trying; one where threads mean nothing to it."""
        return [1]


def load(name: str) -> Runtime:
    """The runtime that a recipe or a bundle calls so. Raises StageError for an unknown name."""
    if name not in RUNTIMES:
        raise StageError(f"there is no runtime {name!r}; {did_you_mean(name, RUNTIMES)}")
    made: Runtime = names.load(RUNTIMES[name])()
    return made
