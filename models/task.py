"""Task: one problem. What goes in, what comes out, on which data, and how good an answer is.

A task is plain numpy and imports no network, so the same object trains, measures and describes a
bundle. Nothing in it is about images: inputs and outputs are named tensors with named axes, and a
score is whatever the task says it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Step
from attar.models.tensors import Array as Array
from attar.models.tensors import Arrays as Arrays
from attar.models.tensors import TensorSpec
from attar.pipeline.core import names

Predict = Callable[[Arrays], dict[str, Array]]
SplitName = Literal["train", "validation", "test", "transfer"]
Kind = Literal["logits", "probabilities", "values", "embedding"]
"""What an output holds; see ``Output``."""
CLASSIFYING: frozenset[Kind] = frozenset({"logits", "probabilities"})
"""The kinds whose last axis is the classes."""
Tensor = TensorSpec
"""The name by which tasks declare an input."""


@dataclass(frozen=True)
class Output:
    """A named output. ``logits`` are unnormalised log-probabilities over the last axis; ``values``
    are taken as they are.

    ``probabilities`` are what a softmax makes of logits: an adopted ONNX teacher answers them, and
    so does every graph that is made. A network in PyTorch answers their logits all the same; the
    softmax is put behind it. What is distilled, compared and stored is their logarithm (see
    ``models.probabilities``).

    An ``embedding`` is one vector a sample, with axes ``("batch", DIMENSIONS)``, of which only the
    direction counts: it is compared by cosine. It has no target, for no label says where it should
    point: it is learned from a teacher.
    """

    axes: tuple[int | str, ...]
    kind: Kind = "logits"
    target: str | None = None
    """The target that this output is trained on: class indices for logits and probabilities,
    numbers for values; None: no labels."""


@dataclass(frozen=True)
class Predictor:
    """Opened graphs. Calling it calls the only one; several (an encoder, a decoder) are reached by
    name."""

    graphs: dict[str, Predict]

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        return self.graphs["model"](inputs)


@dataclass(frozen=True)
class Batch:
    """Some samples of a split: raw inputs, before ``augment`` and ``preprocess``, and their
    targets."""

    inputs: Arrays
    targets: Arrays


class Split(ABC):
    """A sequence of samples that is read by index, a batch at a time; the order never changes."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        """These samples, in this order. Training asks for 512 at a time, in ascending order, from
        all over the split."""


@dataclass(frozen=True)
class InMemory(Split):
    """A split whose arrays fit in memory, or are memory-mapped."""

    inputs: Arrays
    targets: Arrays

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        return Batch(
            {name: array[indices] for name, array in self.inputs.items()},
            {name: array[indices] for name, array in self.targets.items()},
        )


class Task(ABC):
    """Derive from this. Everything must give the same answer every time it is called."""

    inputs: ClassVar[Mapping[str, Tensor]]
    """What the networks read, in the order of their ``forward``'s parameters, after
    ``preprocess``."""
    outputs: ClassVar[Mapping[str, Output]]
    """What the networks return, in this order: one tensor, or a tuple of them."""
    ranges: ClassVar[Mapping[str, tuple[int, int]]] = {"batch": (1, 64)}
    """For every dynamic axis the smallest and the largest size that is promised to work."""
    classes: ClassVar[Sequence[str]] = ()
    """Names of the classes, where there are any."""
    score_name: ClassVar[str] = "accuracy"
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {}
    """For each raw input, the steps that make it the network's input. Data, not code: it travels in
    the bundle."""
    transfer: ClassVar[bool] = False
    """Whether ``split("transfer")`` has unlabelled samples, inputs alone, which a student learns
    from its teacher only."""

    @abstractmethod
    def data(self) -> Sequence[Path | str]:
        """The files that the splits are read from, or version strings. Their content decides what
        is made again.

        A folder stands for every file in it and in those inside it, by their names in there: what
        lies in a folder for each class is best named so. Hidden files do not count.
        """

    @abstractmethod
    def split(self, name: SplitName) -> Split:
        """The samples of ``train``, ``validation`` and ``test``; where there is a ``transfer``,
        also its, without targets."""

    @abstractmethod
    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        """Per-sample statistics ``[samples, k]``; for accuracy ``k = 1`` and each is 0 or 1."""

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        """Statistics to the one number that is promised (higher is better): by default the mean of
        the first column."""
        return float(statistics[:, 0].mean())

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """A view of raw inputs, decided by ``generator`` alone; by default the inputs
        themselves."""
        return inputs

    def answer(self, graphs: Mapping[str, Predict], inputs: Arrays) -> dict[str, Array]:
        """The model's answer: by default one call of its only graph. A decoder's generation loop
        goes here."""
        return graphs["model"](inputs)

    def fetch(self) -> None:  # noqa: B027  # doing nothing is right for most tasks
        """Get the data, where there is something to get; by default there is not. ``attar fetch``
        calls it."""

    def example(self, generator: np.random.Generator, **sizes: int) -> dict[str, Array]:
        """Random inputs of these sizes, for tracing and for proving shapes; axes not named have
        their smallest size."""
        full = {axis: low for axis, (low, _) in self.ranges.items()} | sizes
        return {name: draw_tensor(tensor, generator, full) for name, tensor in self.inputs.items()}


def draw_tensor(tensor: Tensor, generator: np.random.Generator, sizes: Mapping[str, int]) -> Array:
    shape = tensor.shape(sizes)
    if np.issubdtype(np.dtype(tensor.dtype), np.floating):
        return generator.standard_normal(shape).astype(tensor.dtype)
    return generator.integers(0, tensor.high or 2, shape).astype(tensor.dtype)


def hits(logits: Array, labels: Array) -> npt.NDArray[np.float64]:
    """The statistics of accuracy: 1 where the most likely class is the label, else 0. (N, classes),
    (N,) -> (N, 1)."""
    right: npt.NDArray[np.bool_] = np.asarray(logits.argmax(-1) == labels)
    return right[:, None].astype(np.float64)


def load_task(name: str) -> Task:
    """The task that a recipe names. Raises StageError when it is not there or is no task."""
    from attar.pipeline.core.errors import StageError

    made = names.load_object(name)
    if not (isinstance(made, type) and issubclass(made, Task)):
        raise StageError(f"{name} is {made!r}; a task is a class that derives from attar.Task")
    try:
        return made()
    except TypeError as error:
        raise StageError(f"{name} cannot be made without arguments: {error}") from error
