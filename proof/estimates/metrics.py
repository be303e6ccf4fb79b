"""Metrics: how close the answers of two models are, as functions of sums over samples.

Pure numpy, in float64, never NaN. The same sums give the numbers and, resampled, their bounds (see
``intervals``).

``expected`` and ``got`` hold one output of both models, ``[N, ...]``, finite. Logits are taken over
the last axis and are defined up to a constant, so they are compared after the mean of each row is
subtracted; probabilities are compared as the logits that their logarithms are. The logits of a
multilabel output are compared after the mean of each label is subtracted, see ``OfLabels``. Of
embeddings only directions count: they are compared by cosine, see ``compare_embeddings``.

A side that is constant has no correlation with anything (Pearson's r is 0/0). Here it is **0**,
even against itself: a constant answer proves nothing, so it keeps no limit of a correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.probabilities import find_common_floor, to_logits
from attar.models.task import CLASSIFYING, Kind
from attar.proof.estimates.sums import (
    Mask,
    Numbers,
    Sums,
    clear_rounding,
    compute_mean,
    correlate_sums,
    count_rows,
    count_values,
    log_sigmoid,
    softmax,
    subtract_mean,
    sum_products,
)

Metrics = dict[str, float | None]
"""``correlation``, ``correlation_per_sample``, ``correlation_probabilities``, ``cosine``, ``kdl``,
``agreement``, ``largest_difference``."""

ENTRIES = (
    2**16
)  # of a side that are worked on at a time: 512 kB in float64, which stay in the processor's cache
GROUP = 64  # samples at most whose embeddings are compared with each other
FEWEST_GROUPS = 50  # that are aimed at: fewer are too few to resample
WORST: dict[str, Callable[[Sequence[float]], float]] = {
    "correlation": min,
    "correlation_per_sample": min,
    "correlation_probabilities": min,
    "cosine": min,
    "kdl": max,
    "agreement": min,
    "identical": min,
    "largest_difference": max,
}


@dataclass(frozen=True)
class OutputComparison:
    """One output of two models, compared."""

    sums: Mapping[str, Sums]
    """Every metric of such an output except the largest difference, which is a maximum."""
    largest_difference: float | None
    """None if one side has no numbers that could differ."""

    @property
    def numbers(self) -> Metrics:
        """All metrics; None for those that such an output does not have."""
        values: Metrics = {name: each.value for name, each in self.sums.items()}
        return {**dict.fromkeys(WORST), **values, "largest_difference": self.largest_difference}


def compare_outputs(
    kind: Kind,
    expected: npt.NDArray[Any],
    got: npt.NDArray[Any],
    known: Mask | None = None,
) -> OutputComparison:
    """All metrics of one output. Memory does not grow with the number of entries a sample.

    ``known`` ``[N, ...]``: where logits at positions count, see ``Output.ignore``; None: all do.
    """
    if kind == "embedding":
        return compare_embeddings(expected, got)
    columns = choose_sums(kind, expected, got)
    floor = find_common_floor(kind, expected, got)
    parts, largest = [], 0.0
    for p, q, own in iterate_blocks(expected, got, known):
        p, q = (to_logits(kind, side, floor) for side in (p, q))
        if own is not None:
            p, q = (np.where(own[..., None], side, 0) for side in (p, q))
        parts.append(columns(p, q) if own is None else sum_logits_metrics(p, q, own))
        largest = max(largest, float(np.abs(p - q).max()))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return OutputComparison(
        {name: Sums(joined[name], STATISTICS[name]) for name in joined}, largest
    )


def choose_sums(
    kind: Kind, expected: npt.NDArray[Any], got: npt.NDArray[Any]
) -> Callable[[Numbers, Numbers], dict[str, Numbers]]:
    """Return what makes the columns of some samples, by metric, of both sides of an output."""
    if kind in CLASSIFYING:
        return sum_logits_metrics
    return OfLabels(expected, got) if kind == "multilabel" else OfValues(expected, got)


def iterate_blocks(
    expected: npt.NDArray[Any], got: npt.NDArray[Any], known: Mask | None = None
) -> Iterator[tuple[Numbers, Numbers, Mask | None]]:
    """Both sides in float64, some samples at a time, and where they count."""
    rows = max(1, ENTRIES // max(1, expected[0].size))
    for start in range(0, len(expected), rows):
        part = slice(start, start + rows)
        p, q = (np.asarray(side[part], np.float64) for side in (expected, got))
        yield p, q, None if known is None else known[part]


def sum_logits_metrics(p: Numbers, q: Numbers, known: Mask | None = None) -> dict[str, Numbers]:
    """What is summed over samples, ``[N, k]`` by metric, of logits ``[N, ..., classes]``.

    Where ``known`` ``[N, ...]`` is false, both sides are 0.
    """
    pooled = sum_products(subtract_mean(p, -1), subtract_mean(q, -1), known=known)
    (likely, logs), (other, other_logs) = softmax(p), softmax(q)
    divergences = np.maximum(
        0, (likely * (logs - other_logs)).sum(-1)
    )  # (N, ...); below 0 is rounding
    even = 1 / p.shape[-1]  # what probabilities are on average
    return {
        "correlation": pooled,
        "correlation_per_sample": count_values(correlate_sums(pooled)),
        "correlation_probabilities": sum_products(
            clear_rounding(likely - even, even), clear_rounding(other - even, even), known=known
        ),
        "kdl": count_rows(divergences, known),
        "agreement": count_rows(p.argmax(-1) == q.argmax(-1), known),
    }


class OfLabels:
    """Sums like ``sum_logits_metrics``, of a multilabel output ``[N, labels]``.

    They are pooled after the mean of each label over all samples is subtracted: that some labels
    are rare is no knowledge of a sample. Each label is a distribution over yes and no: KDL is the
    mean over labels and samples of KL(Bernoulli(sigmoid(expected)) || Bernoulli(sigmoid(got))), and
    the agreement the share of labels that both sides predict, or both do not; at 0 a label is not
    predicted.
    """

    def __init__(self, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> None:
        sides = [np.asarray(side, np.float64) for side in (expected, got)]
        self.means = [side.mean(0) for side in sides]
        self.largest = [np.abs(side).max(0) for side in sides]
        shares = [np.exp(log_sigmoid(side)) for side in sides]
        self.mean_shares = [share.mean(0) for share in shares]

    def __call__(self, p: Numbers, q: Numbers) -> dict[str, Numbers]:
        pooled = self.pool((p, q), self.means, self.largest)
        logs = [(log_sigmoid(side), log_sigmoid(-side)) for side in (p, q)]
        divergences = sum(np.exp(own) * (own - other) for own, other in zip(*logs, strict=True))
        probabilities = [np.exp(yes) for yes, _ in logs]
        found = {
            "correlation": pooled,
            "correlation_probabilities": self.pool(probabilities, self.mean_shares, (1.0, 1.0)),
            "kdl": count_rows(np.maximum(0, divergences)),
            "agreement": count_rows((p > 0) == (q > 0)),
        }
        if p.shape[1] > 1:
            found["correlation_per_sample"] = count_values(correlate_sums(pooled))
        return found

    @staticmethod
    def pool(sides: Sequence[Numbers], means: Sequence[Numbers], largest: Sequence[Any]) -> Numbers:
        """Return what ``correlate_sums`` reads, of both sides minus the means of their labels."""
        left = [
            clear_rounding(side - mean, most)
            for side, mean, most in zip(sides, means, largest, strict=True)
        ]
        return sum_products(*left)


class OfValues:
    """Sums like ``sum_logits_metrics``, of values.

    They are pooled after the mean of all is subtracted, so that the sums do not cancel.
    """

    def __init__(self, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> None:
        self.means = [float(side.mean(dtype=np.float64)) for side in (expected, got)]
        self.largest = [float(np.abs(side).max()) for side in (expected, got)]

    def __call__(self, p: Numbers, q: Numbers) -> dict[str, Numbers]:
        left = [
            clear_rounding(x - mean, largest)
            for x, mean, largest in zip((p, q), self.means, self.largest, strict=True)
        ]
        pooled = {"correlation": sum_products(*left)}
        if p[0].size == 1:
            return pooled
        rows = sum_products(*(subtract_mean(x.reshape(len(x), -1), -1) for x in (p, q)))
        return {**pooled, "correlation_per_sample": count_values(correlate_sums(rows))}


def compare_embeddings(expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> OutputComparison:
    """Compare embeddings ``[N, dimensions]`` by their cosines.

    ``correlation``: Pearson's r of the teacher's cosines of pairs of samples against the student's,
    which tells whether both find the same samples similar. It does not see a rotation of either
    space. Pairs are made inside disjoint groups of samples and summed by group, so that what is
    resampled is independent. Resampling samples, each with the sum over all of its pairs, would
    count the chance of one side only: a pair varies with both of its samples, and the deviation of
    the mean is twice what such sums show (Hoeffding 1948: the variance of a U-statistic of pairs is
    4/N times that of the conditional mean, not 1/N times).

    ``cosine``: that of both embeddings of a sample, which tells whether one space can replace the
    other, as beside an index that the teacher made.
    """
    sides = [
        [compute_pair_cosines(group) for group in deal_into_groups(side)]
        for side in (expected, got)
    ]
    means = [
        sum(float(group.sum()) for group in side) / max(1, sum(map(len, side))) for side in sides
    ]
    left = [
        [clear_rounding(group - mean, 1.0) for group in side]
        for side, mean in zip(sides, means, strict=True)
    ]
    pooled = np.concatenate([sum_products(p[None], q[None]) for p, q in zip(*left, strict=True)])
    own, largest = [], 0.0
    for p, q, _ in iterate_blocks(expected, got):
        largest = max(largest, float(np.abs(p - q).max()))
        own.append(
            np.clip(np.einsum("ij,ij->i", normalize_vectors(p), normalize_vectors(q)), -1, 1)
        )
    columns = {"correlation": pooled, "cosine": count_values(np.concatenate(own))}
    return OutputComparison(
        {name: Sums(each, STATISTICS[name]) for name, each in columns.items()}, largest
    )


def deal_into_groups(samples: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Deal samples into G groups like cards. Neighbours, which may be related, are separated."""
    size = min(GROUP, max(2, len(samples) // FEWEST_GROUPS))
    count = max(1, len(samples) // size)
    return [samples[first::count] for first in range(count)]


def compute_pair_cosines(group: npt.NDArray[Any]) -> Numbers:
    """Cosines of all pairs of different samples, ``[m, dimensions] -> [m (m - 1) / 2]``."""
    unit = normalize_vectors(np.asarray(group, np.float64))
    made: Numbers = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
    return made


def normalize_vectors(vectors: Numbers) -> Numbers:
    """Divide each vector by its length. A vector of zeros stays: its cosine with anything is 0."""
    largest = np.abs(vectors).max(-1, keepdims=True)  # first, so that no square leaves the range
    scaled = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    made: Numbers = scaled / np.sqrt(np.maximum(1, np.square(scaled).sum(-1, keepdims=True)))
    return made


STATISTICS: dict[str, Callable[[Numbers], Numbers]] = {
    "correlation": correlate_sums,
    "correlation_per_sample": compute_mean,
    "correlation_probabilities": correlate_sums,
    "cosine": compute_mean,
    "kdl": compute_mean,
    "agreement": compute_mean,
    "identical": compute_mean,
}
"""By metric that is a function of sums. KDL is the mean over rows of KL(softmax(expected) ||
softmax(got)) in nats, the distillation loss at T = 1 (Hinton et al. 2015). The agreement is the
share of rows with the same most likely class; of equal logits the first one counts. Of positions
that are partly ignored both are means over all known ones. Of a
multilabel output each label is a row with the classes yes and no."""


def select_worst(metrics: Sequence[Metrics]) -> Metrics:
    """For a task of several outputs: each metric where it is worst; None where no output has it."""
    found = {name: [one for m in metrics if (one := m[name]) is not None] for name in WORST}
    return {name: pick(found[name]) if found[name] else None for name, pick in WORST.items()}
