"""Leak: test samples that are training samples but for a trifle, such as one pixel, or what a lossy format leaves of an image.

Samples that are the same byte for byte are refused before anything is trained; here are those that are not. What is compared is
what networks read, after ``preprocess``, and not what the teacher answers: stored answers belong to augmented views, and answers
of a few classes are alike for samples that are not.

Training samples are dealt into ``GROUPS`` groups, and of each the nearest one to a test sample is found among projections, in one
pass and in memory that does not grow; these are read again. The median over the groups says how far the nearest training samples
usually are from this sample. Where several groups hold a relative of it, such as others of a small class, the nearest of those
says so, but at least ``FAR`` of the distance to the groups that hold none: copies of one sample are nearer to each other than any
class is. It is a near-duplicate where its nearest one is nearer than ``NEAR`` of what is usual, or differs in fewer entries than
``NEAR`` of what is usual. Of tokens the order counts too: ``ALIKE`` of a sequence must be found in the other in the same order.

Where inputs have few degrees of freedom, chance alone comes so near. The distance to the nearest of many points in d dimensions
is distributed as the d-th root of an exponential variable, so the groups' spread tells d; then the limit is lower, so that chance
stays below ``RARE``. The spread is that of the groups that are most alike: others hold relatives in part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models import preprocess, views
from attar.models.task import Arrays, Split, SplitName, Task
from attar.pipeline.core.progress import report_progress
from attar.proof.sketches import (
    Floats,
    Moments,
    Projection,
    Standard,
    has_fixed_length,
    holds_tokens,
    vectorize_rows,
)

SAMPLES = 5_000
"""Test samples that are looked at, spread over the split where it has more."""
GROUPS = 16
FEWEST = 10
"""Training samples a group."""
READ_BYTES = 2**26
"""Of the vectors of neighbours that are in memory at once."""
NEAR = 0.25
FAR = 0.2
ALIKE = 0.75
FAR_GROUP = 12
"""The group, in the order of their distances, that holds no relative where eighteen are dealt at random."""
WINDOWS = ((1, 5), (6, 10), (11, 15))
"""First and last of the groups whose spread tells the dimensions, by their distances; the least of all is left out."""
SPREADS = (1.3153, 0.6688, 0.9040)
"""Median spread of the logarithms in each window, of 16 exponential variables (one dimension), simulated."""
LEAST_SPREAD = 0.6512
"""Median of the least of the three, each as a share of its own, simulated."""
LEAST_LIMIT = 1e-6
"""A lower limit tells nothing: what float32 leaves of a copy is farther."""
RARE = 1e-3
EXAMPLES = 5
LEARNED: Sequence[SplitName] = ("train", "transfer")
Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def find_near_duplicates(task: Task) -> dict[str, Any]:
    """Return the evidence: which test samples are near-duplicates of samples that are learned from.

    ``looked_at`` and ``found`` count test samples, ``share`` is one over the other; ``examples``, the nearest first: ``test``,
    ``split`` and ``sample`` say which, ``distance`` and ``entries`` how near, as shares of what is usual; ``limits`` of both;
    ``why``: None, or why nothing was looked for.
    """
    splits = {name: task.split(name) for name in LEARNED if name == "train" or task.transfer}
    if why := explain_unanswerable(task, len(splits["train"])):
        return {
            "looked_at": 0,
            "found": 0,
            "share": None,
            "examples": [],
            "limits": None,
            "why": why,
        }
    test = task.split("test")
    count = min(SAMPLES, len(test))
    search = Search(task, test, np.arange(count, dtype=np.int64) * len(test) // count, splits)
    neighbours, standards = search.find_nearest()
    evidence = search.describe(neighbours, search.measure(neighbours, standards))
    if evidence["limits"]["distance"] < LEAST_LIMIT:
        why = "training samples lie too unevenly to tell what is near"
        return {
            "looked_at": 0,
            "found": 0,
            "share": None,
            "examples": [],
            "limits": None,
            "why": why,
        }
    return {"looked_at": count, **evidence, "why": None}


def explain_unanswerable(task: Task, samples: int) -> str | None:
    """Return why near-duplicates cannot be told for this task; None where they can."""
    for name, tensor in task.inputs.items():
        if not has_fixed_length(tensor):
            return f"samples of the input {name!r} have sizes of their own and are no tokens"
    if samples < GROUPS * FEWEST:
        return f"{samples} training samples are too few to tell what is near, {GROUPS * FEWEST} would do"
    return None


def compare_with_usual(distances: Numbers) -> tuple[Numbers, float]:
    """Return for distances ``[N, GROUPS]`` each sample's least over its usual one, and below which share none is of chance.

    Where even the usual one is 0 nothing stands out: the share is infinite.
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
    """Some test samples, and what is learned from. Its samples are numbered on from one split to the next."""

    task: Task
    test: Split
    rows: Integers
    """The test samples that are looked at."""
    splits: Mapping[SplitName, Split]

    def find_nearest(self) -> tuple[Integers, dict[str, Standard]]:
        """Return of each group the nearest sample ``[rows, GROUPS]``, and what lets all entries count alike."""
        standards = self.find_standards()
        projection = Projection.draw(self.task, standards)
        parts = [
            projection(self.prepare(self.test, rows))
            for rows in iterate_blocks(self.rows, views.CHUNK)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scales = {name: 1 / (float(each.std()) or 1.0) for name, each in joined.items()}
        nearest = Nearest(join_inputs(joined, scales))
        for number, inputs in self.learned():
            nearest.add(number, join_inputs(projection(inputs), scales))
        scaled = {
            name: Standard(each.mean, each.weight * np.float32(scales[name]))
            for name, each in standards.items()
        }
        return nearest.numbers, scaled

    def find_standards(self) -> dict[str, Standard]:
        moments = {name: Moments() for name in self.task.inputs}
        for rows in iterate_blocks(self.rows, views.CHUNK):
            for name, vectors in self.vectors(self.test, rows).items():
                moments[name].add(vectors)
        return {
            name: Standard.measure(tensor, moments[name])
            for name, tensor in self.task.inputs.items()
        }

    def learned(self) -> Iterator[tuple[int, Arrays]]:
        """Yield all that is learned from, not augmented, each time with the number of the first sample."""
        total, done = sum(map(len, self.splits.values())), 0
        for split in self.splits.values():
            for seen in views.iterate_clean(self.task, split):
                yield done, seen.inputs
                done += len(seen.indices)
                report_progress("near-duplicates", done, total)

    def measure(
        self, neighbours: Integers, standards: Mapping[str, Standard]
    ) -> dict[str, Numbers]:
        """Return the exact ``distance`` to each neighbour, and in how many ``entries`` it differs, ``[rows, GROUPS]``."""
        distances, entries = np.zeros(neighbours.shape), np.zeros(neighbours.shape)
        width = sum(len(standard.mean) for standard in standards.values())
        for places in iterate_blocks(
            np.arange(len(self.rows)), max(1, READ_BYTES // (4 * GROUPS * width))
        ):
            numbers, where = np.unique(neighbours[places], return_inverse=True)
            mine, theirs = self.vectors(self.test, self.rows[places]), self.read(numbers)
            for name, vectors in mine.items():
                for group, others in enumerate(where.reshape(len(places), GROUPS).T):
                    apart = vectors - theirs[name][others]
                    distances[places, group] += np.square(apart * standards[name].weight).sum(1)
                    entries[places, group] += np.count_nonzero(apart, 1)
            report_progress("near-duplicates read again", int(places[-1]) + 1, len(self.rows))
        return {"distance": np.sqrt(distances), "entries": entries}

    def read(self, numbers: Integers) -> dict[str, Floats]:
        """Return these samples of what is learned from, as vectors; numbers ascend."""
        made: dict[str, Floats] = {}
        for split, where, samples in self.located(numbers):
            for name, vectors in self.vectors(self.splits[split], samples).items():
                made.setdefault(name, np.zeros((len(numbers), vectors.shape[1]), np.float32))[
                    where
                ] = vectors
        return made

    def located(self, numbers: Integers) -> Iterator[tuple[SplitName, Integers, Integers]]:
        """Yield each split that some of these are in, which of them, and their numbers there."""
        first = 0
        for name, split in self.splits.items():
            where = np.flatnonzero((numbers >= first) & (numbers < first + len(split)))
            if len(where):
                yield name, where, numbers[where] - first
            first += len(split)

    def vectors(self, split: Split, rows: Integers) -> dict[str, Floats]:
        inputs = self.prepare(split, rows)
        return {
            name: vectorize_rows(tensor, inputs[name]) for name, tensor in self.task.inputs.items()
        }

    def prepare(self, split: Split, rows: Integers) -> Arrays:
        return preprocess.apply(self.task.preprocess, split.take(rows).inputs)

    def describe(self, neighbours: Integers, measured: Mapping[str, Numbers]) -> dict[str, Any]:
        """Return which of the test samples are near-duplicates."""
        judged = {name: compare_with_usual(each) for name, each in measured.items()}
        shares = np.stack([each for each, _ in judged.values()])
        bounds = np.array([[limit] for _, limit in judged.values()])
        near: npt.NDArray[np.bool_] = np.asarray((shares < bounds).any(0), np.bool_)
        groups = np.stack([each.argmin(1) for each in measured.values()])  # of the nearest, by both
        closest = neighbours[
            np.arange(len(neighbours)), np.take_along_axis(groups, shares.argmin(0)[None], 0)[0]
        ]
        for row in np.flatnonzero(near):
            near[row] = self.has_same_order(self.rows[row], closest[row])
        order = np.flatnonzero(near)[np.argsort(shares.min(0)[near], kind="stable")][:EXAMPLES]
        shown = [
            {name: round_share(each[row]) for name, (each, _) in judged.items()} for row in order
        ]
        examples = [
            {"test": int(self.rows[row]), **self.named(closest[row]), **each}
            for row, each in zip(order, shown, strict=True)
        ]
        limits = {name: round_share(limit) for name, (_, limit) in judged.items()}
        return {
            "found": int(near.sum()),
            "share": float(near.mean()),
            "examples": examples,
            "limits": limits,
        }

    def has_same_order(self, row: np.int64, number: np.int64) -> bool:
        """Whether the tokens of two samples are in the same order: sketches may be equal where sequences are not."""
        tokens = {name: tensor for name, tensor in self.task.inputs.items() if holds_tokens(tensor)}
        if not tokens:
            return True
        split, _, samples = next(self.located(np.array([number])))
        mine, theirs = (
            self.prepare(self.test, np.array([row])),
            self.prepare(self.splits[split], samples),
        )
        for name, tensor in tokens.items():
            left, right = (
                [token for token in side[name][0].tolist() if token != tensor.pad]
                for side in (mine, theirs)
            )
            if SequenceMatcher(None, left, right, autojunk=False).ratio() < ALIKE:
                return False
        return True

    def named(self, number: np.int64) -> dict[str, Any]:
        split, _, samples = next(self.located(np.array([number])))
        return {"split": split, "sample": int(samples[0])}


class Nearest:
    """Of each group the vector nearest to some samples; vectors are added a chunk at a time."""

    def __init__(self, mine: Floats) -> None:
        self.mine = mine
        self.distances = np.full((len(mine), GROUPS), np.inf, np.float32)
        """Squared, less what is the same for all that are added."""
        self.numbers = np.zeros((len(mine), GROUPS), np.int64)

    def add(self, first: int, theirs: Floats) -> None:
        """Vectors ``[M, D]``; the first has the number ``first``, and each is in the group of its place, modulo their number."""
        full = -(-len(theirs) // GROUPS) * GROUPS
        order = np.arange(full).reshape(-1, GROUPS).T.ravel()
        known = np.minimum(order, len(theirs) - 1)
        lengths = np.where(order < len(theirs), np.square(theirs).sum(1)[known], np.inf).astype(
            np.float32
        )
        apart = (lengths - 2 * (self.mine @ theirs[known].T)).reshape(len(self.mine), GROUPS, -1)
        places = apart.argmin(2)
        least = np.take_along_axis(apart, places[..., None], 2)[..., 0]
        better = least < self.distances
        self.distances = np.where(better, least, self.distances)
        self.numbers = np.where(
            better, first + known.reshape(GROUPS, -1)[np.arange(GROUPS), places], self.numbers
        )


def join_inputs(parts: Mapping[str, Floats], scales: Mapping[str, float]) -> Floats:
    """Return all inputs of each sample as one vector."""
    return np.concatenate([part * np.float32(scales[name]) for name, part in parts.items()], 1)


def iterate_blocks(rows: Integers, size: int) -> Iterator[Integers]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def round_share(number: float) -> float | None:
    """Return it as JSON has it: None for infinity."""
    return round(float(number), 4) if np.isfinite(number) else None
