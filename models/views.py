"""Views: what a network sees of a split. Recorded by a seed, so that a teacher's answers to a view
can be replayed.

A view is cut into chunks of ``CHUNK`` samples, which ones ``sample_order`` says, and each chunk is
augmented by a generator of its own, seeded by (seed, view, chunk). Hence any chunk of any view can
be made again alone, in any order, in any process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attar.models import lengths, preprocess
from attar.models.sample_order import CHUNK as CHUNK
from attar.models.sample_order import list_blocks, mix_chunks, shuffle_samples
from attar.models.task import Array, Arrays, Split, Task
from attar.pipeline.core.errors import StageError

POOL_CHUNKS = 32  # chunks that are shuffled together: 16,384 samples in memory at once
# samples of a chunk that a network is asked at once: a slow one shows that it goes on, a fast one
# has enough to do
PIECE_SAMPLES = 128


@dataclass(frozen=True)
class ViewBatch:
    """Some samples as a network sees them. Those with labels come first, and only they have
    ``targets``."""

    indices: npt.NDArray[np.int64]
    inputs: dict[str, Array]
    targets: Arrays

    @property
    def labelled(self) -> int:
        """How many samples have labels; all, where there are no targets at all."""
        return min((len(target) for target in self.targets.values()), default=len(self.indices))

    def take(self, rows: npt.NDArray[np.int64]) -> ViewBatch:
        """These samples, those with labels first."""
        labelled = rows
        if self.labelled < len(self.indices):
            labelled = rows[rows < self.labelled]
            rows = np.concatenate([labelled, rows[rows >= self.labelled]])
        targets = {name: array[labelled] for name, array in self.targets.items()}
        return ViewBatch(
            self.indices[rows], {name: array[rows] for name, array in self.inputs.items()}, targets
        )


def make_chunk(
    task: Task, split: Split, number: int, *, seed: int = 0, view: int | None = None
) -> ViewBatch:
    """Chunk ``number`` of a view, or of the clean split, whose chunks are consecutive samples, when
    ``view`` is None."""
    order = np.arange(len(split)) if view is None else shuffle_samples(len(split))
    indices = order[number * CHUNK : (number + 1) * CHUNK]
    batch = split.take(indices)
    raw = batch.inputs
    if view is not None:
        raw = task.augment(raw, np.random.default_rng((seed, view, number)))
    return ViewBatch(indices, preprocess.apply(task.preprocess, raw), batch.targets)


def split_chunk(seen: ViewBatch, size: int = PIECE_SAMPLES) -> Iterator[ViewBatch]:
    """The same samples, so many at a time."""
    for start in range(0, len(seen.indices), size):
        yield seen.take(np.arange(start, min(start + size, len(seen.indices))))


def count_chunks(split: Split) -> int:
    return -(-len(split) // CHUNK)


def iterate_clean(task: Task, split: Split) -> Iterator[ViewBatch]:
    """The split in order, not augmented."""
    for number in range(count_chunks(split)):
        yield make_chunk(task, split, number)


def iterate_spread(task: Task, split: Split, samples: int, batch: int) -> Iterator[ViewBatch]:
    """At most ``samples`` samples, not augmented, spread evenly over the split: a split may be
    sorted by class."""
    count = min(samples, len(split))
    indices = np.arange(count, dtype=np.int64) * len(split) // count
    for start in range(0, count, batch):
        rows = indices[start : start + batch]
        taken = split.take(rows)
        yield ViewBatch(rows, preprocess.apply(task.preprocess, taken.inputs), taken.targets)


def iterate_epoch(
    task: Task,
    split: Split,
    batch: int,
    order: np.random.Generator,
    *,
    seed: int,
    view: int,
    transfer: Split | None = None,
) -> Iterator[ViewBatch]:
    """One pass over a view in shuffled batches; the last, smaller batch is dropped unless it is the
    only one.

    Chunks are drawn in random order and shuffled in pools: memory is bounded, and a batch is what
    it would be if all samples were shuffled together, since a chunk holds samples from everywhere.
    Where samples have lengths of their own, a batch holds some of like length. The samples of
    ``transfer``, which have no labels, are mixed in; their indices go on from those of ``split``.
    """
    labelled = count_chunks(split)
    numbers = mix_chunks(list_blocks(len(split)) + list_blocks(len(transfer or ())), order)
    left: ViewBatch | None = None
    for pooled in np.array_split(numbers, -(-len(numbers) // POOL_CHUNKS)):
        parts = [
            make_chunk(task, split, int(n), seed=seed, view=view)
            if transfer is None or n < labelled
            else drop_labels(
                split, make_chunk(task, transfer, int(n) - labelled, seed=seed, view=view)
            )
            for n in pooled
        ]
        pool = join_batches(
            [left, *parts] if left else parts,
            {name: tensor.pad or 0 for name, tensor in task.inputs.items()},
        )
        shuffled = order.permutation(len(pool.indices))
        whole = len(shuffled) - len(shuffled) % batch
        for rows in group_batches(task, pool, shuffled[:whole], batch, order):
            yield trim_padding(task, pool.take(rows))
        left = pool.take(shuffled[whole:])
    if left is not None and len(split) + len(transfer or ()) < batch:
        yield trim_padding(task, left)


def group_batches(
    task: Task, pool: ViewBatch, rows: npt.NDArray[np.int64], batch: int, order: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """Shuffled rows, a batch at a time; where samples have lengths of their own, those of like
    length together, then shuffled.

    Padding costs as much as what is not: seven words beside fifty would take seven times as long.
    """
    if not lengths.list_length_axes(task):
        return iter(rows.reshape(-1, batch))
    groups = lengths.group_by_length(task, pool.inputs, rows, batch)
    return (groups[number] for number in order.permutation(len(groups)))


def trim_padding(task: Task, seen: ViewBatch) -> ViewBatch:
    """The same samples without what is padding in all of them."""
    return replace(seen, inputs=lengths.trim_inputs(task, seen.inputs))


def drop_labels(split: Split, seen: ViewBatch) -> ViewBatch:
    """Samples of transfer, counted on from those of ``split``; of its targets there are none."""
    none = {name: target[:0] for name, target in split.take(np.arange(1)).targets.items()}
    return ViewBatch(seen.indices + len(split), seen.inputs, none)


def join_batches(parts: list[ViewBatch], pads: Mapping[str, int]) -> ViewBatch:
    """One after the other, those with labels first; ``pads``: see ``Tensor``. Raises StageError for
    targets of other shapes."""
    indices = np.concatenate([part.indices for part in parts])
    inputs = {
        name: join_padded([part.inputs[name] for part in parts], pads[name])
        for name in parts[0].inputs
    }
    targets = {
        name: join_targets(name, [part.targets[name] for part in parts])
        for name in parts[0].targets
    }
    labelled = np.concatenate([np.arange(len(part.indices)) < part.labelled for part in parts])
    if not labelled.all():
        rows = np.argsort(~labelled, kind="stable")
        indices, inputs = indices[rows], {name: array[rows] for name, array in inputs.items()}
    return ViewBatch(indices, inputs, targets)


def join_padded(arrays: list[Array], pad: int) -> Array:
    """One after the other; where samples have lengths of their own, ``pad`` behind the shorter
    ones."""
    longest = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    if all(array.shape[1:] == tuple(longest) for array in arrays):
        return np.concatenate(arrays)
    made = np.full((sum(map(len, arrays)), *longest), pad, arrays[0].dtype)
    start = 0
    for array in arrays:
        made[(slice(start, start + len(array)), *(slice(size) for size in array.shape[1:]))] = array
        start += len(array)
    return made


def join_targets(name: str, targets: list[Array]) -> Array:
    shapes = {target.shape[1:] for target in targets}
    if len(shapes) > 1:
        found = ", ".join(str(shape) for shape in sorted(shapes))
        raise StageError(
            f"the target {name!r} has rows of {found}: only inputs may have lengths of their own, "
            "for a label has no padding; pad all samples to one length in Task.split"
        )
    return np.concatenate(targets)
