"""Epoch: the order in which one pass over a view reads its chunks and forms its batches.

Chunks are drawn in random order and shuffled in pools, which bounds the memory. A batch is
distributed as if all samples were shuffled together, since a chunk holds samples from all of the
split.

The order depends on the numbers of samples and on a seed, not on who reads. Each of ``world``
processes reads every ``world``-th sample of each batch. A pool of ``LANES`` whole chunks is dealt,
one sample of each chunk in turn, so that the samples of a process lie in some of the chunks if
``world`` and ``LANES`` have a common divisor; it prepares these chunks alone. Samples that differ
in length are batched by length, for which every process reads all of them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from attar.models import lengths, preprocess
from attar.models.batches import drop_labels, join_batches
from attar.models.checks.failures import describe_samples, name_failed_sample
from attar.models.mixing import Mixing
from attar.models.pool import LANES, POOL_CHUNKS, Pool, Share
from attar.models.sample_order import CHUNK, Integers, list_blocks, mix_chunks
from attar.models.shuffle_buffer import ShuffleBuffer
from attar.models.task import Split, SplitName, Task
from attar.models.views import (
    Steps,
    ViewBatch,
    WholeStep,
    count_chunks,
    list_chunk,
    make_chunk,
    trim_padding,
)


@dataclass(frozen=True)
class Source:
    """The samples that a network learns from: those of ``split``, and those of ``transfer``, which
    have no labels. Their indices continue those of ``split``."""

    task: Task
    split: Split
    transfer: Split | None = None
    seed: int = 0
    """Seed of the views."""
    mixing: Mixing | None = None
    """How the samples of views are mixed."""
    leaves_steps: bool = False
    """Whether the last steps of preprocessing are left to a GPU, if it can compute them."""

    def __len__(self) -> int:
        return len(self.split) + len(self.transfer or ())

    @property
    def sizes(self) -> Integers:
        """The number of samples in each chunk: those of ``split``, then those of ``transfer``."""
        counts = [len(self.split), len(self.transfer or ())]
        ends = [np.minimum(np.arange(0, count, CHUNK) + CHUNK, count) for count in counts]
        return np.concatenate([np.diff(each, prepend=0) for each in ends])

    def read_chunk(self, view: int, number: int) -> ViewBatch:
        """Return a chunk as a network reads it. Raises StageError that names the sample that cannot
        be prepared."""
        name, split, own = self.find_chunk(number)
        host, moved = self.split_steps()
        read = partial(make_chunk, self.task, split, own, seed=self.seed, view=view)
        with name_failed_sample(self.task, split, list_chunk(split, own, view), name):
            chunk = read(mixing=self.mixing, steps=host)
            # A step on a GPU gives no clear error for a wrong input, so one sample is tried here.
            first = {key: array[:1] for key, array in chunk.inputs.items()}
            preprocess.apply(moved, first)
        return chunk if name == "train" else drop_labels(self.split, chunk, self.mixing)

    def split_steps(self) -> tuple[Steps, Steps]:
        """Return the steps that are done here, and those that are left to a GPU.

        None is left of an input whose padding is looked for, or cut, here: it is told by the values
        that a network reads, and along their axes.
        """
        steps = self.task.preprocess
        if not self.leaves_steps:
            return steps, {}
        read = lengths.list_measured_inputs(self.task)
        left = {name: own for name, own in steps.items() if name not in read}
        host, moved = preprocess.split_steps(left)
        return {**steps, **host}, moved

    def find_chunk(self, number: int) -> tuple[SplitName, Split, int]:
        """Return the split that a chunk belongs to, and its number there."""
        labelled = count_chunks(self.split)
        if self.transfer is None or number < labelled:
            return "train", self.split, number
        return "transfer", self.transfer, number - labelled

    def describe_chunk(self, view: int, number: int) -> str:
        """Return which samples a chunk holds, for a message."""
        name, split, own = self.find_chunk(number)
        return describe_samples(split, list_chunk(split, own, view), name)


@dataclass(frozen=True)
class Epoch:
    """The batches of one pass over a view, as one process reads them.

    The last batch is dropped if it is smaller than ``batch``, unless it is the only one.
    """

    source: Source
    batch: int
    """Samples of a batch, of all processes together: a multiple of their number."""
    seed: int | tuple[int, ...]
    """Seed of the order."""
    share: Share = Share()  # noqa: RUF009  # it is frozen
    skip: int = 0
    """Batches that were read before."""
    accumulate: int = 1
    """Parts that a process cuts its share of a batch into."""

    @cached_property
    def has_lengths(self) -> bool:
        return bool(lengths.list_length_axes(self.source.task))

    @cached_property
    def size(self) -> int:
        return min(self.batch, len(self.source))

    @cached_property
    def pools(self) -> list[Pool]:
        return self.plan_pools(np.random.default_rng(self.seed))

    def plan_pools(self, order: np.random.Generator) -> list[Pool]:
        source, sizes = self.source, self.source.sizes
        blocks = list_blocks(len(source.split)) + list_blocks(len(source.transfer or ()))
        numbers = mix_chunks(blocks, order)
        dealt = np.arange(0)
        if not self.has_lengths:
            whole = numbers[sizes[numbers] == CHUNK]
            dealt = whole[: len(whole) - len(whole) % LANES]
        rest = numbers[~np.isin(numbers, dealt)]
        parts = [
            *dealt.reshape(-1, LANES),
            *np.array_split(rest, -(-len(rest) // POOL_CHUNKS) or 1),
        ]
        ends = np.cumsum([0, *(int(sizes[part].sum()) for part in parts)]).tolist()
        return [
            Pool(part, sizes[part], start, place * LANES < len(dealt))
            for place, (part, start) in enumerate(zip(parts, ends, strict=False))
            if len(part)
        ]

    def count_batches(self, pool: Pool) -> int:
        """Return the number of batches that end in this pool or before it."""
        return pool.end // self.size

    @cached_property
    def first_row(self) -> int:
        """The position of the first sample that is read: of the pool that forms the first batch
        after ``skip``, what is left of the pool before it included."""
        before = [pool.start for pool in self.pools if self.count_batches(pool) > self.skip]
        return min(before, default=len(self.source)) // self.size * self.size

    def list_chunks(self) -> Iterator[int]:
        """Yield the numbers of the chunks that `iterate_batches` takes, in its order."""
        for pool in self.pools:
            if pool.end > self.first_row:
                yield from pool.numbers[pool.list_chunks(self.held)].tolist()

    @property
    def held(self) -> Share:
        """The share of the samples that is held to form batches from."""
        return Share() if self.has_lengths else self.share

    def iterate_batches(self, chunks: Iterator[ViewBatch]) -> Generator[ViewBatch]:
        """Yield this share of each batch after ``skip``. ``chunks`` are those of `list_chunks`."""
        order = np.random.default_rng(self.seed)
        self.plan_pools(order)
        left: ViewBatch | None = None
        done, has_label = 0, np.zeros(0, np.bool_)
        for pool in self.pools:
            shuffled, last = pool.shuffle(order), self.count_batches(pool)
            has_label = np.concatenate([has_label, self.find_labelled(pool)[shuffled]])
            places = order.permutation(last - done) if self.has_lengths else np.arange(last - done)
            if pool.end > self.first_row:
                held, rows = self.join_pool(pool, chunks, shuffled, left)
                used = len(rows) - len(self.held.take(np.arange(last * self.size, pool.end)))
                own = has_label[: (last - done) * self.size]
                groups = self.group_rows(held, rows[:used], own) if last > self.skip else []
                for number, place in enumerate(places.tolist() if groups else [], done):
                    if number >= self.skip:
                        part, step = groups[place]
                        batch = replace(held.take(part), step=step)
                        yield trim_padding(self.source.task, batch)
                left = held.take(rows[used:]) if used < len(rows) else None
                del held
            done, has_label = last, has_label[(last - done) * self.size :]

    def find_labelled(self, pool: Pool) -> npt.NDArray[np.bool_]:
        """Return which samples of a pool have labels, chunk after chunk."""
        return np.repeat(pool.numbers < count_chunks(self.source.split), pool.sizes)

    def iterate_view(self, view: int) -> Iterator[ViewBatch]:
        """Yield the batches of a view, prepared by this process as they are asked for."""
        numbers = self.list_chunks()
        return self.iterate_batches(self.source.read_chunk(view, number) for number in numbers)

    def hold(self, parts: list[ViewBatch]) -> ViewBatch | ShuffleBuffer:
        """Return the samples to form batches from. Those that differ in length are padded alike."""
        inputs = self.source.task.inputs
        pads = {name: inputs[name].pad or 0 for name in parts[0].inputs}
        return join_batches(parts, pads) if self.has_lengths else ShuffleBuffer(parts, pads)

    def join_pool(
        self, pool: Pool, chunks: Iterator[ViewBatch], shuffled: Integers, left: ViewBatch | None
    ) -> tuple[ViewBatch | ShuffleBuffer, Integers]:
        """Return what this process holds of a pool, with the samples that are left of the pool
        before, and the rows of it in the order of the epoch."""
        wanted = np.full(int(pool.sizes.sum()), -1)
        starts = np.cumsum([0, *pool.sizes])
        parts = [] if left is None else [left]
        for place in pool.list_chunks(self.held):
            parts.append(next(chunks))
            wanted[starts[place] : starts[place + 1]] = parts[-1].indices
        held = self.hold(parts)
        own = self.held.take(wanted[shuffled], pool.start)
        first = own[:0] if left is None else left.indices
        return held, find_rows(held.indices, np.concatenate([first, own]))

    def group_rows(
        self, held: ViewBatch | ShuffleBuffer, rows: Integers, has_label: npt.NDArray[np.bool_]
    ) -> list[tuple[Integers, WholeStep]]:
        """Return these rows in batches, as this process reads them, and the step of each, of all
        processes together.

        ``has_label`` are those of all processes, in the order of the epoch.

        If samples differ in length, a batch holds samples of similar length. Padding costs as much
        time as content: seven words beside fifty would take seven times as long.
        """
        cut = self.accumulate * self.share.world
        if isinstance(held, ShuffleBuffer):
            own, known = held.measure_labels(self.source.task), 1 / self.share.world
            parts = rows.reshape(-1, self.size // self.share.world)
            counts = has_label.reshape(-1, self.size).sum(1).tolist()
            steps = zip(parts, counts, strict=True)
            return [(part, held.describe_step(part, own, n, cut, known)) for part, n in steps]
        task, tokens = self.source.task, lengths.measure_labels(self.source.task, held.targets)
        labels = tokens if held.labelled == len(held.indices) else None
        groups = lengths.group_by_length(task, held.inputs, rows, self.size, labels, cut)
        return [
            (self.share.take(group), held.describe_step(group, tokens, cut)) for group in groups
        ]


def find_rows(indices: Integers, wanted: Integers) -> Integers:
    """Return the rows that hold the wanted samples, by the sample of each row."""
    order = np.argsort(indices)
    rows: Integers = order[np.searchsorted(indices, wanted, sorter=order)]
    return rows
