"""Ledger: what each hop answered on the same samples, and how far that is from the teacher and from the hop before it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.probabilities import clip_probabilities
from attar.models.task import CLASSIFYING, Array, Arrays, Task
from attar.pipeline.core.errors import StageError
from attar.proof import intervals, metrics
from attar.proof.hop import PREVIOUS_HOP
from attar.proof.intervals import BoundsSource
from attar.proof.metrics import OutputComparison

BOUNDED_METRICS = ("score_drop", *(name for name in metrics.WORST if name != "largest_difference"))
"""The numbers that are estimates. The largest difference is a maximum over these very samples."""


@dataclass(frozen=True)
class HopOutputs:
    """One hop's outputs ``[N, ...]`` (float32, finite) and per-sample statistics ``[N, k]``."""

    outputs: dict[str, npt.NDArray[np.float32]]
    statistics: npt.NDArray[np.float64]
    nonfinite: int
    """Samples with a NaN or an infinity. These entries are read as 0, so that the other columns stay numbers."""

    @property
    def constant(self) -> bool:
        """Whether some output is the same for every sample: then it does not look at its input."""
        return any(
            len(array) > 1 and bool((array == array[0]).all()) for array in self.outputs.values()
        )


def score_outputs(task: Task, outputs: Mapping[str, Array], targets: Arrays) -> HopOutputs:
    """Raises StageError when the task's score is not one finite row of statistics a sample."""
    raw = {
        name: np.asarray(clip_probabilities(output.kind, np.asarray(outputs[name])), np.float32)
        for name, output in task.outputs.items()
    }
    samples = len(next(iter(raw.values())))
    bad = np.zeros(samples, bool)
    for array in raw.values():
        bad |= ~np.isfinite(array).reshape(samples, -1).all(1)
    finite = {
        name: np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0) for name, array in raw.items()
    }
    statistics = np.asarray(task.score(finite, targets), np.float64)
    if statistics.ndim != 2 or len(statistics) != samples or not np.isfinite(statistics).all():
        raise StageError(
            f"{type(task).__name__}.score gave an array of shape {statistics.shape} for {samples} samples; "
            "it must return finite statistics of shape [samples, k]"
        )
    return HopOutputs(finite, statistics, int(bad.sum()))


@dataclass(frozen=True)
class Comparer:
    """Compares two hops on the same samples of a task."""

    task: Task
    labels: npt.NDArray[np.int64] | None
    """The class of each sample, where the task has classes and one label a sample."""

    def outputs(self, expected: HopOutputs, got: HopOutputs) -> dict[str, OutputComparison]:
        """By the output's name."""
        return {
            name: metrics.compare_outputs(output.kind, expected.outputs[name], got.outputs[name])
            for name, output in self.task.outputs.items()
        }

    def numbers(
        self, expected: HopOutputs, got: HopOutputs, found: Mapping[str, OutputComparison]
    ) -> dict[str, Any]:
        """The drop, every metric (of several outputs the worst), and the class that lost most."""
        drop = self.task.aggregate(expected.statistics) - self.task.aggregate(got.statistics)
        worst = metrics.select_worst([each.numbers for each in found.values()])
        return {"score_drop": drop, **worst, "worst_class": self.worst_class(expected, got)}

    def rests(
        self, expected: HopOutputs, got: HopOutputs, found: Mapping[str, OutputComparison]
    ) -> dict[tuple[str, str], BoundsSource]:
        """What the bounds of these numbers rest on, by metric and output."""
        drop = intervals.bound_score_drop(self.task, expected.statistics, got.statistics)
        outputs = {
            (metric, name): rest
            for name, each in found.items()
            for metric, rest in intervals.list_metric_bounds(each).items()
        }
        return {("score_drop", ""): drop, **outputs}

    def worst_class(self, expected: HopOutputs, got: HopOutputs) -> dict[str, Any] | None:
        if self.labels is None:
            return None
        classes = self.task.classes
        return metrics.find_worst_class(
            self.labels, classes, expected.statistics, got.statistics, self.task.aggregate
        )


def find_labels(task: Task, targets: Arrays) -> npt.NDArray[np.int64] | None:
    """The class of each sample; None for a task without classes, or with more than one label a sample."""
    named = [
        output.target
        for output in task.outputs.values()
        if output.kind in CLASSIFYING and output.target
    ]
    given = [
        targets[name]
        for name in named
        if task.classes and name in targets and targets[name].ndim == 1
    ]
    return given[0].astype(np.int64) if given else None


def list_baselines(hop: str, measured: Container[str]) -> dict[str, str]:
    """The hops that this one is compared with, by what they are to it."""
    found = {"teacher": "teacher"}
    if hop in PREVIOUS_HOP:
        found["previous"] = PREVIOUS_HOP[hop]
    if hop == "engine" and "production" in measured:
        found["production"] = "production"
    return found


def build_ledger(
    of: Mapping[str, HopOutputs],
    compare: Comparer,
    against: Callable[[str, Container[str]], Mapping[str, str]] = list_baselines,
) -> dict[str, dict[str, Any]]:
    """The proof columns of every hop, with the bounds of every number that is an estimate."""
    pairs = [(hop, what, other) for hop in of for what, other in against(hop, of).items()]
    rests: dict[tuple[str, ...], BoundsSource] = {
        (hop,): intervals.bound_score(compare.task, of[hop].statistics) for hop in of
    }
    outputs = {(hop, what): compare.outputs(of[other], of[hop]) for hop, what, other in pairs}
    for hop, what, other in pairs:
        if of[other] is not of[hop]:
            rests |= {
                (hop, what, *place): rest
                for place, rest in compare.rests(of[other], of[hop], outputs[hop, what]).items()
            }
    bounds = intervals.compute_bounds(rests)
    found = {
        hop: {**describe_alone(this, compare.task, bounds[hop,]), "previous": None}
        for hop, this in of.items()
    }
    for hop, what, other in pairs:
        numbers = compare.numbers(of[other], of[hop], outputs[hop, what])
        bounded = {
            metric: enclose_number(
                metric,
                number,
                [bounds[place] for place in bounds if place[:3] == (hop, what, metric)],
            )
            for metric, number in numbers.items()
            if metric in BOUNDED_METRICS
        }
        found[hop][what] = {"hop": other, **numbers, "bounds": bounded}
    return found


def enclose_number(
    metric: str, number: float | None, bounds: Sequence[Sequence[float]]
) -> list[float] | None:
    """Bounds of the worst of several outputs: the worst lower and the worst upper one, whichever outputs they are of.

    They are computed from other sums than the number, which may lie a rounding outside. Without any nothing is uncertain: a hop
    is compared with itself.
    """
    if number is None:
        return None
    worst = metrics.WORST.get(metric, max)
    low, high = (worst([pair[end] for pair in bounds]) if bounds else number for end in (0, 1))
    return [min(low, number), max(high, number)]


def describe_alone(this: HopOutputs, task: Task, bounds: list[float]) -> dict[str, Any]:
    """What is said of a hop by itself."""
    score = task.aggregate(this.statistics)
    return {
        "score": score,
        "score_bounds": enclose_number("score", score, [bounds]),
        "nonfinite": this.nonfinite,
        "constant": this.constant,
    }


def compute_gain(of: Mapping[str, HopOutputs], compare: Comparer) -> dict[str, Any] | None:
    """What the student scores more than the control, with bounds; None without a control."""
    if "control" not in of:
        return None
    before, after = of["control"].statistics, of["student"].statistics
    low, high = intervals.bound_score_drop(compare.task, before, after)
    gained = compare.task.aggregate(after) - compare.task.aggregate(before)
    return {"score": gained, "bounds": [-high, -low]}
