"""Ledger: what each hop answered on the same samples, and how far that is from the teacher and from the hop before it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Arrays, Task
from attar.pipeline.errors import StageError
from attar.stages.proof import intervals, metrics
from attar.stages.proof.intervals import Rests

HOPS = ("teacher", "reference", "student", "control", "onnx", "model", "production", "engine")
"""In the order of the chain; the control stands beside the student, and beside the engine the bundle that is in production."""
PREVIOUS = {"reference": "teacher", "onnx": "student", "model": "onnx", "engine": "model"}
"""What each conversion was made from."""
BOUNDED = ("score_drop", *(name for name in metrics.WORST if name != "largest_difference"))
"""The numbers that are estimates. The largest difference is a maximum over these very samples."""


@dataclass(frozen=True)
class Answered:
    """One hop's outputs ``[N, ...]`` (float32, finite) and per-sample statistics ``[N, k]``."""

    outputs: dict[str, npt.NDArray[np.float32]]
    statistics: npt.NDArray[np.float64]
    nonfinite: int
    """Samples with a NaN or an infinity. These entries are read as 0, so that the other columns stay numbers."""

    @property
    def constant(self) -> bool:
        """Whether some output is the same for every sample: then it does not look at its input."""
        return any(len(array) > 1 and bool((array == array[0]).all()) for array in self.outputs.values())


def answered(task: Task, outputs: Mapping[str, Array], targets: Arrays) -> Answered:
    """Raises StageError when the task's score is not one finite row of statistics a sample."""
    raw = {name: np.asarray(outputs[name], np.float32) for name in task.outputs}
    samples = len(next(iter(raw.values())))
    bad = np.zeros(samples, bool)
    for array in raw.values():
        bad |= ~np.isfinite(array).reshape(samples, -1).all(1)
    finite = {name: np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0) for name, array in raw.items()}
    statistics = np.asarray(task.score(finite, targets), np.float64)
    if statistics.ndim != 2 or len(statistics) != samples or not np.isfinite(statistics).all():
        raise StageError(
            f"{type(task).__name__}.score gave an array of shape {statistics.shape} for {samples} samples; "
            "it must return finite statistics of shape [samples, k]"
        )
    return Answered(finite, statistics, int(bad.sum()))


@dataclass(frozen=True)
class Comparer:
    """Compares two hops on the same samples of a task."""

    task: Task
    labels: npt.NDArray[np.int64] | None
    """The class of each sample, where the task has classes and one label a sample."""

    def __call__(self, expected: Answered, got: Answered) -> tuple[dict[str, Any], dict[str, Rests]]:
        """The drop, every metric (of several outputs the worst), and the class that lost most; and what their bounds rest on."""
        kinds = {name: output.kind for name, output in self.task.outputs.items()}
        pairs = {name: (expected.outputs[name], got.outputs[name]) for name in kinds}
        found = {name: metrics.compare(kinds[name], *pair) for name, pair in pairs.items()}
        rests = {name: intervals.of_output(kinds[name], *pair) for name, pair in pairs.items()}
        worst = metrics.worst(list(found.values()))
        drop = self.task.aggregate(expected.statistics) - self.task.aggregate(got.statistics)
        resting: dict[str, Rests] = {"score_drop": intervals.score_drop(self.task, expected.statistics, got.statistics)}
        for metric, value in worst.items():
            at = next(name for name in found if found[name][metric] == value)
            resting |= {metric: rests[at][metric]} if metric in rests[at] else {}
        if expected is got:  # nothing about it is uncertain
            resting = {metric: (value, value) for metric, value in {"score_drop": drop, **worst}.items() if value is not None}
        return {"score_drop": drop, **worst, "worst_class": self.worst_class(expected, got)}, resting

    def worst_class(self, expected: Answered, got: Answered) -> dict[str, Any] | None:
        if self.labels is None:
            return None
        classes = self.task.classes
        return metrics.worst_class(self.labels, classes, expected.statistics, got.statistics, self.task.aggregate)


def labels(task: Task, targets: Arrays) -> npt.NDArray[np.int64] | None:
    """The class of each sample; None for a task without classes, or with more than one label a sample."""
    named = [output.target for output in task.outputs.values() if output.kind == "logits" and output.target]
    given = [targets[name] for name in named if task.classes and name in targets and targets[name].ndim == 1]
    return given[0].astype(np.int64) if given else None


def others(hop: str, measured: Container[str]) -> dict[str, str]:
    """The hops that this one is compared with, by what they are to it."""
    found = {"teacher": "teacher"}
    if hop in PREVIOUS:
        found["previous"] = PREVIOUS[hop]
    if hop == "engine" and "production" in measured:
        found["production"] = "production"
    return found


def entries(of: Mapping[str, Answered], compare: Comparer) -> dict[str, dict[str, Any]]:
    """The proof columns of every hop, with the bounds of every number that is an estimate."""
    compared = {(hop, what): (other, *compare(of[other], of[hop])) for hop in of for what, other in others(hop, of).items()}
    rests: dict[tuple[str, ...], Rests] = {(hop,): intervals.score(compare.task, of[hop].statistics) for hop in of}
    rests |= {(*pair, metric): rest for pair, (_, _, resting) in compared.items() for metric, rest in resting.items()}
    bounds = intervals.resolved(rests)
    found = {hop: {**alone(this, compare.task, bounds[hop,]), "previous": None} for hop, this in of.items()}
    for (hop, what), (other, numbers, _) in compared.items():
        bounded = {metric: holding(bounds.get((hop, what, metric)), numbers[metric]) for metric in BOUNDED}
        found[hop][what] = {"hop": other, **numbers, "bounds": bounded}
    return found


def holding(bounds: list[float] | None, number: float) -> list[float] | None:
    """They are computed from other sums than the number, which may lie a rounding outside."""
    return None if bounds is None else [min(bounds[0], number), max(bounds[1], number)]


def alone(this: Answered, task: Task, bounds: list[float]) -> dict[str, Any]:
    """What is said of a hop by itself."""
    score = task.aggregate(this.statistics)
    return {
        "score": score,
        "score_bounds": holding(bounds, score),
        "nonfinite": this.nonfinite,
        "constant": this.constant,
    }


def gain(of: Mapping[str, Answered], compare: Comparer) -> dict[str, Any] | None:
    """What the student scores more than the control, with bounds; None without a control."""
    if "control" not in of:
        return None
    before, after = of["control"].statistics, of["student"].statistics
    low, high = intervals.score_drop(compare.task, before, after)
    gained = compare.task.aggregate(after) - compare.task.aggregate(before)
    return {"score": gained, "bounds": [-high, -low]}
