"""Ledger: what each hop answered on the same samples, and how far that is from the teacher and from the hop before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Arrays, Task
from attar.pipeline.errors import StageError
from attar.stages.proof import metrics

HOPS = ("teacher", "reference", "student", "control", "onnx", "model", "engine")
"""In the order of the chain; the control stands beside the student."""
PREVIOUS = {"reference": "teacher", "onnx": "student", "model": "onnx", "engine": "model"}
"""What each conversion was made from."""


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

    def __call__(self, expected: Answered, got: Answered) -> dict[str, Any]:
        outputs = [
            metrics.compare(output.kind, expected.outputs[name], got.outputs[name]) for name, output in self.task.outputs.items()
        ]
        drop = self.task.aggregate(expected.statistics) - self.task.aggregate(got.statistics)
        return {"score_drop": drop, **metrics.worst(outputs), "worst_class": self.worst_class(expected, got)}

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


def entry(hop: str, of: Mapping[str, Answered], compare: Comparer) -> dict[str, Any]:
    """The proof columns of one hop in the ledger."""
    this, before = of[hop], PREVIOUS.get(hop)
    return {
        "score": compare.task.aggregate(this.statistics),
        "nonfinite": this.nonfinite,
        "constant": this.constant,
        "teacher": compare(of["teacher"], this),
        "previous": {"hop": before, **compare(of[before], this)} if before else None,
    }
