"""Task: one problem: its inputs, its outputs, its data, and the score of an answer.

A task is plain numpy and imports no network, so the same object trains, measures and describes a
bundle. Nothing in it is specific to images: inputs and outputs are named tensors with named axes,
and the task defines its score.
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
Kind = Literal["logits", "probabilities", "values", "embedding", "tokens", "multilabel"]
"""What an output holds; see ``Output``."""
CLASSIFYING: frozenset[Kind] = frozenset({"logits", "probabilities"})
"""The kinds whose last axis is the classes."""
Tensor = TensorSpec
"""The name by which tasks declare an input."""


@dataclass(frozen=True)
class Output:
    """A named output. ``logits`` are unnormalised log-probabilities over the last axis; ``values``
    are any numbers.

    ``probabilities`` are the softmax of logits. An adopted ONNX teacher returns them, and so does
    every exported graph. A network in PyTorch returns the logits; the export appends the softmax.
    Training, comparisons and stored answers use the logarithm of probabilities (see
    ``models.probabilities``).

    An ``embedding`` is one vector for each sample, with axes ``("batch", DIMENSIONS)``. Only its
    direction counts: it is compared by cosine. It has no target, since no label defines a
    direction; it is learned from a teacher.

    ``tokens`` are a sequence of token ids, with axes ``("batch", LONGEST)``: the largest number of
    tokens, the end token included. They are generated one after the other (see
    ``models.generation``), so such an output is a task's only one. Its target has the same axes. A
    row ends with ``end`` and is filled up with ``pad``.

    ``multilabel`` are the logits of independent yes-or-no decisions, with axes ``("batch",
    LABELS)``: the sigmoid of each is the probability of a yes, which is the answer above 0. Its
    target has the same axes and holds 0 and 1.
    """

    axes: tuple[int | str, ...]
    kind: Kind = "logits"
    target: str | None = None
    """The target that trains this output: class indices for logits and probabilities, numbers for
    values, token ids for tokens, 0 and 1 for multilabel. None: no labels."""
    ignore: int | None = None
    """The label of positions that count nowhere, such as 255, of logits or probabilities with
    positions, ``("batch", ..., classes)``: they are in no loss, no comparison and no gate. None:
    all count."""
    size: int = 0
    """The number of different tokens; 0 for other kinds."""
    begin: int = 1
    """The token that a network reads first."""
    end: int = 2
    """The token that ends a sequence."""
    pad: int = 0
    """The token that fills up shorter sequences."""
    growth: tuple[int, int] = (2, 10)
    """Slope and offset: a source of S tokens gets at most ``slope * S + offset`` tokens."""


@dataclass(frozen=True)
class Predictor:
    """Opened graphs. Calling it calls the graph `model`; others, such as an encoder and a decoder,
    are called by name."""

    graphs: dict[str, Predict]

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        return self.graphs["model"](inputs)


@dataclass(frozen=True)
class Batch:
    """Samples of a split: raw inputs, before ``augment`` and ``preprocess``, and their targets."""

    inputs: Arrays
    targets: Arrays


class Split(ABC):
    """A sequence of samples that is read in batches, by index. Its order never changes."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        """Return these samples in this order. Training asks for 512 at a time, in ascending order,
        from all over the split."""

    def name_sample(self, index: int) -> str:
        """Return what a message calls this sample, such as the path of its file; "" for nothing
        but its index."""
        return ""


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
    """The base class of tasks. Every method must return the same for the same arguments each
    time."""

    inputs: ClassVar[Mapping[str, Tensor]]
    """The inputs of the networks after ``preprocess``, in the order of the parameters of
    ``forward``."""
    outputs: ClassVar[Mapping[str, Output]]
    """The outputs of the networks in order: one tensor, or a tuple of them."""
    ranges: ClassVar[Mapping[str, tuple[int, int]]] = {"batch": (1, 64)}
    """The smallest and the largest supported size of every dynamic axis."""
    classes: ClassVar[Sequence[str]] = ()
    """The names of the classes, if there are any."""
    score_name: ClassVar[str] = "accuracy"
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {}
    """The steps that convert each raw input to the network's input. They are data, not code, and
    travel in the bundle."""
    postprocess: ClassVar[Mapping[str, Sequence[Step]]] = {}
    """The steps that convert an output to the answer, such as tokens to text. They travel in the
    bundle, too."""
    transfer: ClassVar[bool] = False
    """Whether ``split("transfer")`` has unlabelled samples, which a student learns from its teacher
    alone."""

    @abstractmethod
    def data(self) -> Sequence[Path | str]:
        """Return the files that the splits are read from, or version strings. Their content is part
        of the key of what depends on them.

        A folder stands for all files below it, by their relative names: name the folder if its
        subfolders are the classes. Hidden files do not count.
        """

    @abstractmethod
    def split(self, name: SplitName) -> Split:
        """Return the samples of ``train``, ``validation`` and ``test``, and of ``transfer`` if
        there is one, which has no targets."""

    @abstractmethod
    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        """Return per-sample statistics ``[samples, k]``; for accuracy ``k = 1`` and each is 0 or
        1."""

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        """Return the score of these statistics (higher is better): by default the mean of the first
        column."""
        return float(statistics[:, 0].mean())

    def mark_subsets(self) -> Mapping[str, npt.NDArray[np.bool_]]:
        """Return which test samples are in each subset whose score is shown beside that of all,
        ``[samples]`` by the subset's name; by default there is none."""
        return {}

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Return a view of raw inputs that depends on ``generator`` alone; by default the inputs
        themselves. Where the first step of ``preprocess`` is ``DecodeImage``, the images are
        decoded before: uint8 ``[N, H, W, C]``, or an object array ``[N]`` of ``[H, W, C]``."""
        return inputs

    def answer(self, graphs: Mapping[str, Predict], inputs: Arrays) -> dict[str, Array]:
        """Return the model's outputs: by default one call of its only graph. A decoder's generation
        loop belongs here."""
        return graphs["model"](inputs)

    def fetch(self) -> None:  # noqa: B027  # doing nothing is right for most tasks
        """Download the data; by default there is nothing to download. ``attar fetch`` calls it."""

    def example(self, generator: np.random.Generator, **sizes: int) -> dict[str, Array]:
        """Return random inputs of these sizes, for tracing and for checks of shapes. Other axes
        have their smallest size."""
        full = {axis: low for axis, (low, _) in self.ranges.items()} | sizes
        return {name: draw_tensor(tensor, generator, full) for name, tensor in self.inputs.items()}


def draw_tensor(tensor: Tensor, generator: np.random.Generator, sizes: Mapping[str, int]) -> Array:
    shape = tensor.shape(sizes)
    if np.issubdtype(np.dtype(tensor.dtype), np.floating):
        return generator.standard_normal(shape).astype(tensor.dtype)
    return generator.integers(0, tensor.high or 2, shape).astype(tensor.dtype)


def hits(logits: Array, labels: Array) -> npt.NDArray[np.float64]:
    """Return the statistics of accuracy: 1 if the most likely class is the label, else 0. (N,
    classes), (N,) -> (N, 1)."""
    is_hit: npt.NDArray[np.bool_] = np.asarray(logits.argmax(-1) == labels)
    return is_hit[:, None].astype(np.float64)


def find_known(task: Task, targets: Arrays) -> dict[str, npt.NDArray[np.bool_]]:
    """Return where outputs count, ``[N, positions]`` without the axis of classes, by the name of
    the output; without those that count everywhere."""
    return {
        name: np.asarray(targets[output.target]) != output.ignore
        for name, output in task.outputs.items()
        if output.ignore is not None and output.target is not None
    }


def load_task(name: str) -> Task:
    """Load the task that a recipe names. Raises StageError if it is missing or is no task."""
    from attar.pipeline.core.errors import StageError

    kind = names.load_object(name)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise StageError(f"{name} is {kind!r}; a task is a class that derives from attar.Task")
    try:
        return kind()
    except TypeError as error:
        raise StageError(f"{name} cannot be made without arguments: {error}") from error
