"""Leak: test samples that are nearly training samples, such as an image that lost one pixel.

Samples that are equal byte for byte are refused before anything is trained. This module finds those
that differ a little. It compares what networks read, after ``preprocess``, and not what the teacher
answers: stored answers belong to augmented views, and answers of a few classes are similar for
samples that are not.

Training samples are dealt into ``GROUPS`` groups. The nearest one of each group to a test sample is
found among projections, in one pass and in constant memory; these samples are read again. The
median over the groups tells how far the nearest training samples usually are from this sample. If
several groups hold a relative of it, such as others of a small class, the nearest of those tells
it, but at least ``FAR`` of the distance to the groups that hold none: copies of one sample are
nearer to each other than any class is. A sample is a near-duplicate if its nearest one is nearer
than ``NEAR`` of what is usual, or differs in fewer entries than ``NEAR`` of what is usual. The
order of tokens counts too: ``ALIKE`` of a sequence must be found in the other in the same order.

If inputs have few degrees of freedom, chance alone comes so near. The distance to the nearest of
many points in d dimensions is distributed as the d-th root of an exponential variable, so the
spread of the groups tells d; then the limit is lower, so that chance stays below ``RARE``. The
spread is that of the groups that are most alike: others hold relatives in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import numpy.typing as npt

from attar.models import preprocess, views
from attar.models.task import Arrays, Split, SplitName, Task
from attar.pipeline.core.progress import report_progress
from attar.proof.checks.nearest import GROUPS, Integers, Nearest, iterate_blocks
from attar.proof.checks.sketches import (
    Floats,
    Moments,
    Projection,
    Standard,
    has_fixed_length,
    holds_tokens,
    vectorize_rows,
)
from attar.proof.ledger.ledger import LeakCheck, NearDuplicate

SAMPLES = 5_000
"""Test samples that are compared, spread over the split if it has more."""
FEWEST = 10
"""Training samples a group."""
READ_BYTES = 2**26
"""Of the vectors of neighbours that are in memory at once."""
NEAR = 0.25
FAR = 0.2
ALIKE = 0.75
FAR_GROUP = 12
"""The group, by its distance, that holds no relative if eighteen are dealt at random."""
WINDOWS = ((1, 5), (6, 10), (11, 15))
"""First and last of the groups whose spread tells the dimensions, by their distances; the nearest
group is left out."""
SPREADS = (1.3153, 0.6688, 0.9040)
"""Median spread of the logarithms in each window, of 16 exponential variables (one dimension),
simulated."""
LEAST_SPREAD = 0.6512
"""Median of the least of the three, each as a share of its own, simulated."""
LEAST_LIMIT = 1e-6
"""A lower limit tells nothing: what float32 leaves of a copy is farther."""
RARE = 1e-3
EXAMPLES = 5
LEARNED: Sequence[SplitName] = ("train", "transfer")
Numbers = npt.NDArray[np.float64]


def find_near_duplicates(task: Task) -> LeakCheck:
    """Return which test samples are near-duplicates of samples that are learned from."""
    splits = {name: task.split(name) for name in LEARNED if name == "train" or task.transfer}
    if why := explain_unanswerable(task, len(splits["train"])):
        return LeakCheck(why_unchecked=why)
    test = task.split("test")
    count = min(SAMPLES, len(test))
    search = Search(task, test, np.arange(count, dtype=np.int64) * len(test) // count, splits)
    neighbours, standards = search.find_nearest()
    return search.build_check(neighbours, search.measure_neighbours(neighbours, standards))


def explain_unanswerable(task: Task, samples: int) -> str | None:
    """Return why near-duplicates cannot be told for this task; None if they can."""
    for name, tensor in task.inputs.items():
        if not has_fixed_length(tensor):
            return f"samples of the input {name!r} have sizes of their own and are no tokens"
    enough = GROUPS * FEWEST
    if samples < enough:
        return f"{samples} training samples are too few to tell what is near, {enough} would do"
    return None


def compare_with_usual(distances: Numbers) -> tuple[Numbers, float]:
    """Return each sample's least distance over its usual one, and the limit of that share.

    ``distances``: ``[N, GROUPS]``. Below the limit no share is due to chance. If the usual distance
    is 0, nothing stands out: the share is infinite.
    """
    ordered = np.sort(distances, 1)
    least, second, median = ordered[:, 0], ordered[:, 1], np.median(ordered, 1)
    local = np.where(second < median / 2, second, median)
    usual = np.maximum(local, FAR * ordered[:, FAR_GROUP])
    shares = np.divide(least, usual, out=np.full(len(distances), np.inf), where=usual > 0)
    root = estimate_root(ordered)
    return shares, min(NEAR, float((RARE / (GROUPS * np.log(2))) ** root))


def estimate_root(ordered: Numbers) -> float:
    """Return one over the dimensions that the groups' distances, in ascending order, have."""
    logarithms = np.log(np.maximum(ordered, np.finfo(np.float64).tiny))
    spreads = [
        (logarithms[:, last] - logarithms[:, first]) / spread
        for (first, last), spread in zip(WINDOWS, SPREADS, strict=True)
    ]
    return float(np.median(np.min(spreads, 0))) / LEAST_SPREAD


@dataclass(frozen=True)
class Search:
    """Some test samples, and what is learned from, whose samples are numbered across its splits."""

    task: Task
    test: Split
    rows: Integers
    """The test samples that are compared."""
    splits: Mapping[SplitName, Split]

    def find_nearest(self) -> tuple[Integers, dict[str, Standard]]:
        """Return the nearest sample of each group ``[rows, GROUPS]``, and the inputs' scales."""
        standards = self.measure_standards()
        projection = Projection.draw(self.task, standards)
        parts = [
            projection(self.prepare_inputs(self.test, rows))
            for rows in iterate_blocks(self.rows, views.CHUNK)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scales = {name: 1 / (float(vectors.std()) or 1.0) for name, vectors in joined.items()}
        nearest = Nearest(join_inputs(joined, scales))
        for number, inputs in self.iterate_learned():
            nearest.add(number, join_inputs(projection(inputs), scales))
        scaled = {
            name: Standard(standard.mean, standard.weight * np.float32(scales[name]))
            for name, standard in standards.items()
        }
        return nearest.numbers, scaled

    def measure_standards(self) -> dict[str, Standard]:
        moments = {name: Moments() for name in self.task.inputs}
        for rows in iterate_blocks(self.rows, views.CHUNK):
            for name, vectors in self.read_vectors(self.test, rows).items():
                moments[name].add(vectors)
        return {
            name: Standard.measure(tensor, moments[name])
            for name, tensor in self.task.inputs.items()
        }

    def iterate_learned(self) -> Iterator[tuple[int, Arrays]]:
        """Yield all that is learned from, not augmented, with the number of each first sample."""
        total, done = sum(map(len, self.splits.values())), 0
        for split in self.splits.values():
            for seen in views.iterate_clean(self.task, split):
                yield done, seen.inputs
                done += len(seen.indices)
                report_progress("near-duplicates", done, total)

    def measure_neighbours(
        self, neighbours: Integers, standards: Mapping[str, Standard]
    ) -> dict[str, Numbers]:
        """Return the exact ``distance`` to each neighbour, and in how many ``entries`` it differs.

        Both are ``[rows, GROUPS]``.
        """
        distances, entries = np.zeros(neighbours.shape), np.zeros(neighbours.shape)
        width = sum(len(standard.mean) for standard in standards.values())
        block = max(1, READ_BYTES // (4 * GROUPS * width))
        for places in iterate_blocks(np.arange(len(self.rows)), block):
            numbers, where = np.unique(neighbours[places], return_inverse=True)
            tested = self.read_vectors(self.test, self.rows[places])
            learned = self.read_learned(numbers)
            for name, vectors in tested.items():
                for group, others in enumerate(where.reshape(len(places), GROUPS).T):
                    apart = vectors - learned[name][others]
                    distances[places, group] += np.square(apart * standards[name].weight).sum(1)
                    entries[places, group] += np.count_nonzero(apart, 1)
            report_progress("near-duplicates read again", int(places[-1]) + 1, len(self.rows))
        return {"distance": np.sqrt(distances), "entries": entries}

    def read_learned(self, numbers: Integers) -> dict[str, Floats]:
        """Return these samples of what is learned from, as vectors. ``numbers`` ascend."""
        parts = [
            self.read_vectors(self.splits[split], samples)
            for split, samples in self.locate_samples(numbers)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.task.inputs}

    def locate_samples(self, numbers: Integers) -> Iterator[tuple[SplitName, Integers]]:
        """Yield each split that some of these are in, and their numbers there."""
        first = 0
        for name, split in self.splits.items():
            inside = numbers[(numbers >= first) & (numbers < first + len(split))]
            if len(inside):
                yield name, inside - first
            first += len(split)

    def read_vectors(self, split: Split, rows: Integers) -> dict[str, Floats]:
        inputs = self.prepare_inputs(split, rows)
        return {
            name: vectorize_rows(tensor, inputs[name]) for name, tensor in self.task.inputs.items()
        }

    def prepare_inputs(self, split: Split, rows: Integers) -> Arrays:
        return preprocess.apply(self.task.preprocess, split.take(rows).inputs)

    def build_check(self, neighbours: Integers, measured: Mapping[str, Numbers]) -> LeakCheck:
        """Return which of the test samples are near-duplicates."""
        compared = {name: compare_with_usual(numbers) for name, numbers in measured.items()}
        shares = np.stack([share for share, _ in compared.values()])
        limits = {name: limit for name, (_, limit) in compared.items()}
        rounded = {name: round(limit, 4) for name, limit in limits.items()}
        if rounded["distance"] < LEAST_LIMIT:
            return LeakCheck(why_unchecked="training samples lie too unevenly to tell what is near")
        is_near: npt.NDArray[np.bool_] = np.asarray(
            (shares < np.array([[limit] for limit in limits.values()])).any(0), np.bool_
        )
        groups = np.stack([numbers.argmin(1) for numbers in measured.values()])
        nearest = np.take_along_axis(groups, shares.argmin(0)[None], 0)[0]
        closest = neighbours[np.arange(len(neighbours)), nearest]
        for row in np.flatnonzero(is_near):
            is_near[row] = self.has_same_order(self.rows[row], closest[row])
        order = np.flatnonzero(is_near)[np.argsort(shares.min(0)[is_near], kind="stable")]
        return LeakCheck(
            looked_at=len(self.rows),
            count=int(is_near.sum()),
            share=float(is_near.mean()),
            examples=tuple(
                self.describe_pair(self.rows[row], closest[row], *shares[:, row])
                for row in order[:EXAMPLES]
            ),
            limits=rounded,
        )

    def has_same_order(self, row: np.int64, number: np.int64) -> bool:
        """Whether the tokens of two samples are in the same order.

        Sketches may be equal if sequences are not.
        """
        tokens = {name: tensor for name, tensor in self.task.inputs.items() if holds_tokens(tensor)}
        if not tokens:
            return True
        split, samples = next(self.locate_samples(np.array([number])))
        tested = self.prepare_inputs(self.test, np.array([row]))
        learned = self.prepare_inputs(self.splits[split], samples)
        for name, tensor in tokens.items():
            left, right = (
                [token for token in side[name][0].tolist() if token != tensor.pad]
                for side in (tested, learned)
            )
            if SequenceMatcher(None, left, right, autojunk=False).ratio() < ALIKE:
                return False
        return True

    def describe_pair(
        self, row: np.int64, number: np.int64, distance: float, entries: float
    ) -> NearDuplicate:
        split, samples = next(self.locate_samples(np.array([number])))
        shares = (round_share(distance), round_share(entries))
        return NearDuplicate(int(row), split, int(samples[0]), *shares)


def join_inputs(parts: Mapping[str, Floats], scales: Mapping[str, float]) -> Floats:
    """Return all inputs of each sample as one vector."""
    return np.concatenate([part * np.float32(scales[name]) for name, part in parts.items()], 1)


def round_share(number: float) -> float | None:
    """Return it as JSON has it: None for infinity."""
    return round(float(number), 4) if np.isfinite(number) else None
