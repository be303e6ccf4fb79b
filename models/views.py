"""Views: recorded augmentations of a split. A view is replayed by its seed, so that it meets the
teacher's stored answers to it.

A view is cut into chunks of ``CHUNK`` samples, in the order of `sample_order`. Each chunk is
augmented by its own generator, seeded by (seed, view, chunk). So any chunk of any view can be
computed alone, in any order, in any process.
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

POOL_CHUNKS = 32  # chunks that are shuffled together: 16,384 samples are in memory at once
# Samples of a chunk in one call of a network: few enough that a slow one shows progress, and many
# enough to keep a fast one busy.
PIECE_SAMPLES = 128


@dataclass(frozen=True)
class ViewBatch:
    """Samples as a network reads them. Samples with labels come first; only they have
    ``targets``."""

    indices: npt.NDArray[np.int64]
    inputs: dict[str, Array]
    targets: Arrays

    @property
    def labelled(self) -> int:
        """The number of samples with labels. If there are no targets at all, all count."""
        return min((len(target) for target in self.targets.values()), default=len(self.indices))

    def take(self, rows: npt.NDArray[np.int64]) -> ViewBatch:
        """Return these samples, those with labels first."""
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
    """Return chunk ``number`` of a view. If ``view`` is None, chunks are consecutive samples of the
    split and are not augmented."""
    order = np.arange(len(split)) if view is None else shuffle_samples(len(split))
    indices = order[number * CHUNK : (number + 1) * CHUNK]
    batch = split.take(indices)
    raw = batch.inputs
    if view is not None:
        raw = task.augment(raw, np.random.default_rng((seed, view, number)))
    return ViewBatch(indices, preprocess.apply(task.preprocess, raw), batch.targets)


def split_chunk(chunk: ViewBatch, size: int = PIECE_SAMPLES) -> Iterator[ViewBatch]:
    """Yield the same samples in batches of ``size``."""
    for start in range(0, len(chunk.indices), size):
        yield chunk.take(np.arange(start, min(start + size, len(chunk.indices))))


def count_chunks(split: Split) -> int:
    return -(-len(split) // CHUNK)


def iterate_clean(task: Task, split: Split) -> Iterator[ViewBatch]:
    """Yield the split in order, not augmented."""
    for number in range(count_chunks(split)):
        yield make_chunk(task, split, number)


def iterate_spread(task: Task, split: Split, samples: int, batch: int) -> Iterator[ViewBatch]:
    """Yield at most ``samples`` samples, not augmented and spread evenly over the split, which may
    be sorted by class."""
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
    """Yield one pass over a view in shuffled batches. The last batch is dropped if it is smaller,
    unless it is the only one.

    Chunks are drawn in random order and shuffled in pools, which bounds the memory. A batch is
    distributed as if all samples were shuffled together, since a chunk holds samples from all of
    the split. If samples differ in length, a batch holds samples of similar length. Samples of
    ``transfer``, which have no labels, are mixed in; their indices continue those of ``split``.
    """

    def read_chunk(number: int) -> ViewBatch:
        if transfer is None or number < labelled:
            return make_chunk(task, split, number, seed=seed, view=view)
        chunk = make_chunk(task, transfer, number - labelled, seed=seed, view=view)
        return drop_labels(split, chunk)

    labelled = count_chunks(split)
    numbers = mix_chunks(list_blocks(len(split)) + list_blocks(len(transfer or ())), order)
    pads = {name: tensor.pad or 0 for name, tensor in task.inputs.items()}
    left: ViewBatch | None = None
    for pooled in np.array_split(numbers, -(-len(numbers) // POOL_CHUNKS)):
        chunks = [read_chunk(number) for number in pooled.tolist()]
        pool = join_batches([left, *chunks] if left else chunks, pads)
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
    """Yield shuffled rows in batches. If samples differ in length, batches of similar length are
    formed first and then shuffled.

    Padding costs as much time as content: seven words beside fifty would take seven times as long.
    """
    if not lengths.list_length_axes(task):
        return iter(rows.reshape(-1, batch))
    has_all_labels = pool.labelled == len(pool.indices)
    labels = lengths.measure_labels(task, pool.targets) if has_all_labels else None
    groups = lengths.group_by_length(task, pool.inputs, rows, batch, labels)
    return (groups[number] for number in order.permutation(len(groups)))


def trim_padding(task: Task, batch: ViewBatch) -> ViewBatch:
    """Return the same samples without the positions that are padding in all of them."""
    return replace(batch, inputs=lengths.trim_inputs(task, batch.inputs))


def drop_labels(split: Split, chunk: ViewBatch) -> ViewBatch:
    """Return samples of transfer without targets, with indices that continue those of ``split``."""
    none = {name: target[:0] for name, target in split.take(np.arange(1)).targets.items()}
    return ViewBatch(chunk.indices + len(split), chunk.inputs, none)


def join_batches(parts: list[ViewBatch], pads: Mapping[str, int]) -> ViewBatch:
    """Join batches in order, samples with labels first. ``pads`` has the padding of each input.
    Raises StageError for targets of different shapes."""
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
    """Join arrays in order. Samples that are shorter than others are filled up with ``pad``."""
    longest = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    if all(array.shape[1:] == tuple(longest) for array in arrays):
        return np.concatenate(arrays)
    joined = np.full((sum(map(len, arrays)), *longest), pad, arrays[0].dtype)
    start = 0
    for array in arrays:
        corner = tuple(slice(size) for size in array.shape[1:])
        joined[(slice(start, start + len(array)), *corner)] = array
        start += len(array)
    return joined


def join_targets(name: str, targets: list[Array]) -> Array:
    shapes = {target.shape[1:] for target in targets}
    if len(shapes) > 1:
        listed = ", ".join(str(shape) for shape in sorted(shapes))
        raise StageError(
            f"the target {name!r} has rows of {listed}: only inputs may have lengths of their own, "
            "for a label has no padding; pad all samples to one length in Task.split"
        )
    return np.concatenate(targets)
