"""Comparison of hops: what each answered on the same samples, and how far that is from its
baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from attar.models.task import CLASSIFYING, Arrays, Kind, Task
from attar.proof.comparison.hop_outputs import HopOutputs
from attar.proof.comparison.sequences import compare_sequences
from attar.proof.estimates import intervals, metrics
from attar.proof.estimates.bounds import ConfidenceBounds, Estimate
from attar.proof.estimates.intervals import BoundsSource
from attar.proof.estimates.metrics import OutputComparison
from attar.proof.estimates.sums import Mask, Numbers, Sums, compute_mean, count_values
from attar.proof.gate import EXACT_METRICS, Baseline, Comparison, Metric
from attar.proof.hop import PREVIOUS_HOP, HopName
from attar.proof.ledger.ledger import COMPARED_METRICS, ClassDrop, Hop

BoundsName = tuple[str, ...]
"""``(hop,)`` of a score; ``(hop, "", subset)`` of a subset's score; ``(hop, baseline, metric,
output)`` of a comparison."""


def find_labels(task: Task, targets: Arrays) -> npt.NDArray[np.int64] | None:
    """Return the class of each sample.

    Return None for a task without classes, or with more than one label a sample.
    """
    names = [
        output.target
        for output in task.outputs.values()
        if output.kind in CLASSIFYING and output.target
    ]
    labels = [
        targets[name]
        for name in names
        if task.classes and name in targets and targets[name].ndim == 1
    ]
    return labels[0].astype(np.int64) if labels else None


def list_baselines(hop: HopName, measured: Container[str]) -> dict[Baseline, HopName]:
    """Return the hops that this one is compared with, by what they are to it."""
    baselines: dict[Baseline, HopName] = {"teacher": "teacher"}
    if hop in PREVIOUS_HOP and PREVIOUS_HOP[hop] in measured:
        baselines["previous"] = PREVIOUS_HOP[hop]
    if hop == "engine" and "production" in measured:
        baselines["production"] = "production"
    return baselines


@dataclass(frozen=True)
class HopPair:
    """A hop beside one of its baselines."""

    name: str
    baseline: Baseline
    expected: HopOutputs
    got: HopOutputs
    by_output: Mapping[str, OutputComparison]

    @property
    def is_itself(self) -> bool:
        """Whether a hop is compared with its own outputs: then nothing is uncertain."""
        return self.expected.outputs is self.got.outputs


@dataclass(frozen=True)
class HopComparer:
    """Compares hops on the same samples of a task."""

    task: Task
    labels: npt.NDArray[np.int64] | None
    """The class of each sample, where the task has classes and one label a sample."""
    known: Mapping[str, Mask] = field(default_factory=dict)
    """By output the positions that count, where some are ignored."""
    subsets: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """Which samples are in each subset that has a score of its own."""

    def build_hops(self, measured: Mapping[str, HopOutputs]) -> dict[str, Hop]:
        """Return every hop with its score, its comparisons, and the bounds of every estimate.

        A candidate has a name of its own, and is the hop ``model``.
        """
        pairs = list(self.list_pairs(measured))
        sources: dict[BoundsName, BoundsSource] = {
            (name,): intervals.bound_score(self.task, got.statistics)
            for name, got in measured.items()
        }
        for name, got in measured.items():
            for subset, rows in self.subsets.items():
                scored = got.statistics[rows]
                sources[name, "", subset] = intervals.bound_score(self.task, scored)
        for pair in pairs:
            sources |= self.list_bounds_sources(pair)
        bounds = intervals.compute_bounds(sources)
        return {
            name: self.describe_hop(
                name, got, [pair for pair in pairs if pair.name == name], bounds
            )
            for name, got in measured.items()
        }

    def list_pairs(self, measured: Mapping[str, HopOutputs]) -> Iterator[HopPair]:
        for name, got in measured.items():
            for baseline, other in list_baselines(got.hop, measured).items():
                expected = measured[other]
                by_output = {
                    output: compare_hop_outputs(
                        output, spec.kind, expected, got, self.known.get(output)
                    )
                    for output, spec in self.task.outputs.items()
                }
                yield HopPair(name, baseline, expected, got, by_output)

    def list_bounds_sources(self, pair: HopPair) -> dict[BoundsName, BoundsSource]:
        """Return what the bounds of this comparison are computed from."""
        if pair.is_itself:
            return {}
        before, after = pair.expected.statistics, pair.got.statistics
        drop = intervals.bound_score_drop(self.task, before, after)
        sources: dict[BoundsName, BoundsSource] = {
            (pair.name, pair.baseline, "score_drop", ""): drop
        }
        for output, comparison in pair.by_output.items():
            for metric, source in intervals.list_metric_bounds(comparison).items():
                sources[pair.name, pair.baseline, metric, output] = source
        return sources

    def describe_hop(
        self,
        name: str,
        got: HopOutputs,
        pairs: Sequence[HopPair],
        bounds: Mapping[BoundsName, ConfidenceBounds],
    ) -> Hop:
        statistics = got.statistics
        subsets = {
            subset: self.describe_score(got.hop, statistics[rows], bounds[name, "", subset])
            for subset, rows in self.subsets.items()
        }
        comparisons = [each for pair in pairs for each in self.list_comparisons(pair, bounds)]
        worst = {pair.baseline: self.find_worst_class(pair) for pair in pairs}
        return Hop(
            got.hop,
            score=self.describe_score(got.hop, statistics, bounds[name,]),
            subset_scores=subsets,
            comparisons={(each.baseline, each.metric): each for each in comparisons},
            worst_classes={baseline: drop for baseline, drop in worst.items() if drop},
            nonfinite_samples=got.nonfinite_samples,
            is_constant=got.is_constant,
            endless_share=got.endless_share,
            loop_faults=got.loop_faults,
        )

    def describe_score(
        self, hop: HopName, statistics: Numbers, bounds: ConfidenceBounds
    ) -> Comparison:
        """Return the score of some samples, from their statistics ``[N, k]``."""
        score = self.task.aggregate(statistics)
        enclosed = enclose_value("score", score, [bounds])
        return Comparison("score", hop, "absolute", score, enclosed, len(statistics))

    def list_comparisons(
        self, pair: HopPair, bounds: Mapping[BoundsName, ConfidenceBounds]
    ) -> Iterator[Comparison]:
        """Yield every metric of a pair; of several outputs the worst."""
        before, after = pair.expected.statistics, pair.got.statistics
        drop = self.task.aggregate(before) - self.task.aggregate(after)
        worst = metrics.select_worst([each.numbers for each in pair.by_output.values()])
        values = {"score_drop": drop, **worst}
        for metric in COMPARED_METRICS:
            value, hop = values[metric], pair.got.hop
            if value is None:
                continue
            if metric in EXACT_METRICS:
                yield Comparison(metric, hop, pair.baseline, value)
                continue
            place = (pair.name, pair.baseline, metric)
            ends = [bounds[name] for name in bounds if name[:3] == place]
            enclosed = enclose_value(metric, value, ends)
            yield Comparison(metric, hop, pair.baseline, value, enclosed, len(after))

    def find_worst_class(self, pair: HopPair) -> ClassDrop | None:
        if self.labels is None:
            return None
        before, after = pair.expected.statistics, pair.got.statistics
        return find_worst_class(self.labels, self.task.classes, before, after, self.task.aggregate)

    def compute_gain(self, measured: Mapping[str, HopOutputs]) -> Estimate | None:
        """Return what the student scores more than the control; None without a control."""
        if "control" not in measured:
            return None
        before, after = measured["control"].statistics, measured["student"].statistics
        low, high = intervals.bound_score_drop(self.task, before, after)
        gain = self.task.aggregate(after) - self.task.aggregate(before)
        return Estimate(gain, ConfidenceBounds(-high, -low))


def compare_hop_outputs(
    name: str, kind: Kind, expected: HopOutputs, got: HopOutputs, known: Mask | None = None
) -> OutputComparison:
    """Compare one output of two hops; tokens are compared along the teacher's path."""
    sides = expected.outputs[name], got.outputs[name]
    if kind != "tokens":
        return metrics.compare_outputs(kind, *sides, known)
    along_path = compare_sequences(expected.followed[name], got.followed[name])
    identical = count_values((sides[0] == sides[1]).all(1).astype(np.float64))
    sums = {**along_path.sums, "identical": Sums(identical, compute_mean)}
    return replace(along_path, sums=sums)


def enclose_value(
    metric: Metric, value: float, bounds: Sequence[ConfidenceBounds]
) -> ConfidenceBounds:
    """Return the bounds of the worst of several outputs: the worst lower and the worst upper one.

    They are computed from other sums than the value, which may lie a rounding outside. Without
    bounds nothing is uncertain: a hop is compared with itself.
    """
    worst = metrics.WORST.get(metric, max)
    low = worst([ends.low for ends in bounds]) if bounds else value
    high = worst([ends.high for ends in bounds]) if bounds else value
    return ConfidenceBounds(min(low, value), max(high, value))


def find_worst_class(
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    expected: Numbers,
    got: Numbers,
    aggregate: Callable[[Numbers], float],
) -> ClassDrop | None:
    """Return the class whose score fell most, from per-sample statistics ``[N, k]``.

    Classes without a sample are left out, and those of which alone the score is not defined (an
    AUC of one class). Return None if no class is left.
    """
    rows = {name: labels == number for number, name in enumerate(classes)}
    drops = {
        name: aggregate(expected[row]) - aggregate(got[row])
        for name, row in rows.items()
        if row.any()
    }
    defined = {name: drop for name, drop in drops.items() if math.isfinite(drop)}
    if not defined:
        return None
    name = max(defined, key=lambda each: defined[each])
    return ClassDrop(name, defined[name])
