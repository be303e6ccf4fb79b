"""Sketches: samples as vectors of a fixed length, and short random projections of these.

Projections keep distances. Numbers are taken as they are; what is not finite is 0. A sequence of
tokens becomes a histogram of its pairs of neighbours, so that an inserted word moves nothing else,
and order still counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Arrays, Task, Tensor

DIMENSIONS = 64
"""Of a projection: its distances are right to 9 % (Johnson and Lindenstrauss 1984)."""
PAIRS = 1_024
"""Entries that pairs of tokens are hashed to."""
ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
"""Multipliers of the hash, and so of its order (Knuth, TAOCP 3, 6.4)."""
Floats = npt.NDArray[np.float32]


def holds_tokens(tensor: Tensor) -> bool:
    """Whether an input is a sequence of tokens: integers with padding, or of no fixed length.

    Other rows of integers, such as answers to questions, mean what they mean at their positions.
    """
    is_row = len(tensor.axes) == 2 and tensor.is_integer
    return is_row and (tensor.pad is not None or isinstance(tensor.axes[1], str))


def has_fixed_length(tensor: Tensor) -> bool:
    """Whether its samples are vectors of one length."""
    return holds_tokens(tensor) or all(isinstance(axis, int) for axis in tensor.axes[1:])


def vectorize_rows(tensor: Tensor, array: Array) -> Floats:
    """Return one input of some samples as vectors, ``[N, entries]``."""
    if holds_tokens(tensor):
        return count_pairs(np.asarray(array, np.int64), tensor.pad)
    flat = np.asarray(array, np.float32).reshape(len(array), -1)
    return flat if np.isfinite(flat).all() else np.nan_to_num(flat, nan=0, posinf=0, neginf=0)


def count_pairs(tokens: npt.NDArray[np.int64], pad: int | None) -> Floats:
    """Return how often each pair of neighbours occurs, ``[N, S] -> [N, PAIRS]``.

    The start and the first token are a pair too.
    """
    before = np.concatenate([np.full((len(tokens), 1), -1), tokens[:, :-1]], 1)
    mixed = before.astype(np.uint64) * np.uint64(ODD[0]) + tokens.astype(np.uint64) * np.uint64(
        ODD[1]
    )
    buckets = (mixed % np.uint64(2**61 - 1) % np.uint64(PAIRS)).astype(np.int64)  # [N, S]
    own = np.ones(tokens.shape, bool) if pad is None else tokens != pad
    places = np.arange(len(tokens))[:, None] * PAIRS + buckets
    counts = np.bincount(places[own], minlength=len(tokens) * PAIRS)
    return counts.reshape(len(tokens), PAIRS).astype(np.float32)


class Moments:
    """Mean and deviation of each entry, of vectors that are added a block at a time."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: npt.NDArray[np.float64] = np.zeros(1)
        self.squares: npt.NDArray[np.float64] = np.zeros(1)

    def add(self, vectors: Floats) -> None:
        self.count += len(vectors)
        self.sums = self.sums + vectors.sum(0, dtype=np.float64)
        self.squares = self.squares + np.square(vectors, dtype=np.float64).sum(0)

    def find_means(self) -> Floats:
        return np.asarray(self.sums / self.count, np.float32)

    def find_weights(self) -> Floats:
        """Return one over the deviation of each entry.

        An entry that deviates less than usual gets one over the usual deviation: its noise would
        outweigh all others.
        """
        means = self.sums / self.count
        deviations = np.sqrt(np.maximum(self.squares / self.count - np.square(means), 0))
        varying = deviations[deviations > 1e-6 * np.abs(means)]
        usual = np.quantile(varying, 0.75) if varying.size else 1.0
        return np.asarray(1 / np.maximum(deviations, usual), np.float32)


@dataclass(frozen=True)
class Standard:
    """What is subtracted from the vectors of an input, and what they are multiplied by then."""

    mean: Floats
    weight: Floats

    @classmethod
    def measure(cls, tensor: Tensor, moments: Moments) -> Standard:
        """Return the standard of an input.

        Entries of a row of numbers have units of their own; those of images and of tokens have one.
        """
        mean = moments.find_means()
        has_columns = len(tensor.axes) == 2 and not holds_tokens(tensor)
        return cls(mean, moments.find_weights() if has_columns else np.ones_like(mean))

    def apply(self, vectors: Floats) -> Floats:
        return (vectors - self.mean) * self.weight


@dataclass(frozen=True)
class Projection:
    """Projects the inputs of a task. ``matrices`` is None for an input that is short enough."""

    task: Task
    standards: Mapping[str, Standard]
    matrices: Mapping[str, Floats | None]

    @classmethod
    def draw(cls, task: Task, standards: Mapping[str, Standard]) -> Projection:
        """Return one for inputs of these standards, always the same."""
        generator = np.random.default_rng(0)
        return cls(
            task,
            standards,
            {name: make_matrix(generator, len(each.mean)) for name, each in standards.items()},
        )

    def __call__(self, inputs: Arrays) -> dict[str, Floats]:
        """Return the projection of each input, ``[N, at most DIMENSIONS]``."""
        made = {}
        for name, chosen in self.matrices.items():
            vectors = self.standards[name].apply(
                vectorize_rows(self.task.inputs[name], inputs[name])
            )
            made[name] = vectors if chosen is None else vectors @ chosen
        return made


def make_matrix(generator: np.random.Generator, width: int) -> Floats | None:
    if width <= DIMENSIONS:
        return None
    return generator.standard_normal((width, DIMENSIONS), np.float32) / np.float32(
        np.sqrt(DIMENSIONS)
    )
