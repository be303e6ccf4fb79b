"""Views: what a network sees of a split. Recorded by a seed, so that a teacher's answers to a view can be replayed.

A view is cut into chunks of ``CHUNK`` consecutive samples, and each chunk is augmented by a generator of its own, seeded
by (seed, view, chunk). Hence any chunk of any view can be made again alone, in any order, in any process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attar.models import preprocess
from attar.models.task import Array, Arrays, Split, Task

CHUNK = 512
POOL = 32  # chunks that are shuffled together: 16,384 samples in memory at once


@dataclass(frozen=True)
class Seen:
    """Some samples as a network sees them."""

    indices: npt.NDArray[np.int64]
    inputs: dict[str, Array]
    targets: Arrays

    def take(self, rows: npt.NDArray[np.int64]) -> Seen:
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return Seen(self.indices[rows], inputs, {name: array[rows] for name, array in self.targets.items()})


def chunk(task: Task, split: Split, number: int, *, seed: int = 0, view: int | None = None) -> Seen:
    """Chunk ``number`` of a view, or of the clean split when ``view`` is None."""
    indices = np.arange(number * CHUNK, min((number + 1) * CHUNK, len(split)))
    batch = split.take(indices)
    raw = batch.inputs
    if view is not None:
        raw = task.augment(raw, np.random.default_rng((seed, view, number)))
    return Seen(indices, preprocess.apply(task.preprocess, raw), batch.targets)


def chunks(split: Split) -> int:
    return -(-len(split) // CHUNK)


def clean(task: Task, split: Split) -> Iterator[Seen]:
    """The split in order, not augmented."""
    for number in range(chunks(split)):
        yield chunk(task, split, number)


def spread(task: Task, split: Split, samples: int, batch: int) -> Iterator[Seen]:
    """At most ``samples`` samples, not augmented, spread evenly over the split: a split may be sorted by class."""
    count = min(samples, len(split))
    indices = np.arange(count, dtype=np.int64) * len(split) // count
    for start in range(0, count, batch):
        rows = indices[start : start + batch]
        taken = split.take(rows)
        yield Seen(rows, preprocess.apply(task.preprocess, taken.inputs), taken.targets)


def epoch(task: Task, split: Split, batch: int, order: np.random.Generator, *, seed: int, view: int) -> Iterator[Seen]:
    """One pass over a view in shuffled batches; the last, smaller batch is dropped unless it is the only one.

    Chunks are drawn in random order and shuffled in pools, so memory is bounded and no batch follows the split's order.
    """
    numbers = order.permutation(chunks(split))
    left: Seen | None = None
    for start in range(0, len(numbers), POOL):
        parts = [chunk(task, split, int(n), seed=seed, view=view) for n in numbers[start : start + POOL]]
        pool = join([left, *parts] if left else parts)
        pool = pool.take(order.permutation(len(pool.indices)))
        whole = len(pool.indices) - len(pool.indices) % batch
        for row in range(0, whole, batch):
            yield pool.take(np.arange(row, row + batch))
        left = pool.take(np.arange(whole, len(pool.indices)))
    if left is not None and len(split) < batch:
        yield left


def join(parts: list[Seen]) -> Seen:
    return Seen(
        np.concatenate([part.indices for part in parts]),
        {name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs},
        {name: np.concatenate([part.targets[name] for part in parts]) for name in parts[0].targets},
    )
