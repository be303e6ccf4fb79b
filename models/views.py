"""Views: recorded augmentations of a split. A view is replayed by its seed, so that it meets the
teacher's stored answers to it.

A view is cut into chunks of ``CHUNK`` samples, in the order of `sample_order`. Each chunk is
augmented by its own generator, seeded by (seed, view, chunk). So any chunk of any view can be
computed alone, in any order, in any process. (A generator for each sample would let a batch be
prepared alone, but calling ``augment`` for one sample at a time takes 10 to 60 times as long.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from attar.models import lengths, preprocess
from attar.models.mixing import Mixing
from attar.models.sample_order import CHUNK as CHUNK
from attar.models.sample_order import shuffle_samples
from attar.models.task import Array, Arrays, Split, Task

PIECE_SAMPLES = 128
"""Samples of a chunk in one call of a network on a CPU: few enough that a slow one shows progress,
and many enough to keep a fast one busy."""
Steps = Mapping[str, Sequence[preprocess.Step]]
MIXING_STREAM = 1
"""The end of the seed that mixes a chunk, so that its numbers are not those that augment it."""


@dataclass(frozen=True)
class WholeStep:
    """The step that a batch is a part of, by which the means over its parts are weighed."""

    parts: int
    """The number of its parts, of all processes together."""
    labelled: int
    """The number of its samples with labels."""
    indices: npt.NDArray[np.int64]
    """Its samples that this process knows."""
    tokens: float | None = None
    """The number of tokens of its labels, if these are sequences. Where not all samples are known,
    the labels of the others are taken to be as long."""
    known: float = 1.0
    """The share of its samples that are known: of several processes each has read only its own,
    where all have one size."""

    def weigh(self, own: float, total: float) -> float:
        """Return what a mean over ``own`` of ``total`` things weighs in a part, so that the mean
        over the parts is that over all of them."""
        return self.parts * own / total if total else 1.0


@dataclass(frozen=True)
class ViewBatch:
    """Samples as a network reads them. Samples with labels come first; only they have
    ``targets``."""

    indices: npt.NDArray[np.int64]
    inputs: dict[str, Array]
    targets: Arrays
    step: WholeStep | None = None
    """The step that these samples are a part of, if they are."""

    @property
    def labelled(self) -> int:
        """The number of samples with labels. If there are no targets at all, all count."""
        return min((len(target) for target in self.targets.values()), default=len(self.indices))

    @property
    def label_weight(self) -> float:
        """What a mean over these samples' labels weighs, see ``WholeStep.weigh``."""
        return 1.0 if self.step is None else self.step.weigh(self.labelled, self.step.labelled)

    def weigh_tokens(self, tokens: int) -> float:
        """Return what a mean over so many tokens of these samples' labels weighs: as their share of
        the tokens of the step."""
        if self.step is None or self.step.tokens is None:
            return self.label_weight
        return self.step.weigh(tokens, self.step.tokens)

    def describe_step(
        self, rows: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64] | None, parts: int
    ) -> WholeStep:
        """Return these samples as a whole step. ``tokens`` are the numbers of tokens of the labels,
        ``[labelled]``."""
        own = rows[rows < self.labelled]
        count = None if tokens is None else int(tokens[own].sum())
        return WholeStep(parts, len(own), self.indices[rows], count)

    def take(self, rows: npt.NDArray[np.int64]) -> ViewBatch:
        """Return these samples, those with labels first."""
        labelled = rows
        if self.labelled < len(self.indices):
            labelled = rows[rows < self.labelled]
            rows = np.concatenate([labelled, rows[rows >= self.labelled]])
        targets = {name: array[labelled] for name, array in self.targets.items()}
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return ViewBatch(self.indices[rows], inputs, targets, self.step)


def make_chunk(
    task: Task,
    split: Split,
    number: int,
    *,
    seed: int = 0,
    view: int | None = None,
    mixing: Mixing | None = None,
    steps: Steps | None = None,
) -> ViewBatch:
    """Return chunk ``number`` of a view. If ``view`` is None, chunks are consecutive samples of the
    split, and are neither augmented nor mixed. ``steps`` are those of the task, or the first of
    them."""
    steps = task.preprocess if steps is None else steps
    indices = list_chunk(split, number, view)
    batch = split.take(indices)
    if view is None:
        inputs = preprocess.apply(steps, batch.inputs)
        return ViewBatch(indices, inputs, batch.targets)
    inputs = make_view(task, batch.inputs, np.random.default_rng((seed, view, number)), steps)
    if mixing is None:
        return ViewBatch(indices, inputs, batch.targets)
    generator = np.random.default_rng((seed, view, number, MIXING_STREAM))
    return ViewBatch(indices, *mixing.mix(inputs, batch.targets, generator))


def list_chunk(split: Split, number: int, view: int | None = None) -> npt.NDArray[np.int64]:
    """Return the indices of the samples of a chunk."""
    if view is None:
        return np.arange(number * CHUNK, min((number + 1) * CHUNK, len(split)))
    return shuffle_samples(len(split))[number * CHUNK : (number + 1) * CHUNK]


def make_view(
    task: Task, raw: Arrays, generator: np.random.Generator, steps: Steps
) -> dict[str, Array]:
    """Return raw inputs as a network reads one view of them: decoded, augmented, and then
    preprocessed by the other steps."""
    view = task.augment(preprocess.decode(steps, raw), generator)
    return preprocess.apply(preprocess.list_later_steps(steps), view)


def choose_piece(task: Task, device: str) -> int:
    """Return how many samples of a chunk a network on this device is called with at once.

    On a GPU all of them, which its runtime cuts to what the memory holds. Samples that differ in
    length are padded to the longest of a piece, so their pieces stay small.
    """
    is_small = device == "cpu" or lengths.list_length_axes(task)
    return PIECE_SAMPLES if is_small else CHUNK


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


def trim_padding(task: Task, batch: ViewBatch) -> ViewBatch:
    """Return the same samples without the positions that are padding in all of them."""
    return replace(batch, inputs=lengths.trim_inputs(task, batch.inputs))
