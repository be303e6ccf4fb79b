"""Sketches: samples as vectors of a fixed length, and these as short random projections that keep distances.

Numbers are taken as they are. A sequence of tokens becomes a histogram of its pairs of neighbours, so that a word that is put in
moves nothing else, and order still counts.
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
    """Whether an input is a sequence of tokens a sample."""
    return len(tensor.axes) == 2 and np.issubdtype(np.dtype(tensor.dtype), np.integer)


def has_fixed_length(tensor: Tensor) -> bool:
    """Whether its samples are vectors of one length."""
    return holds_tokens(tensor) or all(isinstance(axis, int) for axis in tensor.axes[1:])


def vectorize(tensor: Tensor, array: Array) -> Floats:
    """Return one input of some samples as vectors, ``[N, entries]``."""
    if holds_tokens(tensor):
        return count_pairs(np.asarray(array, np.int64), tensor.pad)
    return np.asarray(array, np.float32).reshape(len(array), -1)


def count_pairs(tokens: npt.NDArray[np.int64], pad: int | None) -> Floats:
    """Return how often each pair of neighbours is there, the start and the first among them; ``[N, S] -> [N, PAIRS]``."""
    before = np.concatenate([np.full((len(tokens), 1), -1), tokens[:, :-1]], 1)
    mixed = before.astype(np.uint64) * np.uint64(ODD[0]) + tokens.astype(np.uint64) * np.uint64(
        ODD[1]
    )
    buckets = (mixed % np.uint64(2**61 - 1) % np.uint64(PAIRS)).astype(np.int64)  # [N, S]
    own = np.ones(tokens.shape, bool) if pad is None else tokens != pad
    places = np.arange(len(tokens))[:, None] * PAIRS + buckets
    counts = np.bincount(places[own], minlength=len(tokens) * PAIRS)
    return counts.reshape(len(tokens), PAIRS).astype(np.float32)


@dataclass(frozen=True)
class Projection:
    """Projects inputs of a task; ``matrices`` is None for an input that is short enough as it is."""

    task: Task
    matrices: Mapping[str, Floats | None]

    @classmethod
    def draw(cls, task: Task, example: Arrays) -> Projection:
        """Return one for inputs like ``example``, always the same."""
        widths = {
            name: vectorize(tensor, example[name][:1]).shape[1]
            for name, tensor in task.inputs.items()
        }
        generator = np.random.default_rng(0)
        return cls(task, {name: matrix(generator, width) for name, width in widths.items()})

    def __call__(self, inputs: Arrays) -> dict[str, Floats]:
        """Return the projection of each input, ``[N, at most DIMENSIONS]``."""
        made = {}
        for name, chosen in self.matrices.items():
            vectors = vectorize(self.task.inputs[name], inputs[name])
            made[name] = vectors if chosen is None else vectors @ chosen
        return made


def matrix(generator: np.random.Generator, width: int) -> Floats | None:
    if width <= DIMENSIONS:
        return None
    return generator.standard_normal((width, DIMENSIONS), np.float32) / np.float32(
        np.sqrt(DIMENSIONS)
    )
