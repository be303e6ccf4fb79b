"""How good a network is on validation: its score, and where there is a teacher the correlation with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from torch import nn

from attar.engines.runtimes.torch import make_predictor
from attar.models import views
from attar.models.probabilities import from_logits
from attar.models.rows import Rows
from attar.models.task import CLASSIFYING, Array, Arrays, Output, Predict, Task
from attar.pipeline.core.progress import advance
from attar.proof.metrics import compare, worst
from attar.stages.artifacts import Answers


class Validation:
    """``Validation(task, answers)(module)``: all in float32, on samples that are not augmented."""

    def __init__(self, task: Task, answers: Answers | None = None) -> None:
        self.task = task
        self.split = task.split("validation")
        self.teacher = None if answers is None else answers.rows("validation")

    def __call__(self, module: nn.Module) -> dict[str, float]:
        return self.of(make_predictor(module, self.task))

    def of(self, predict: Predict, what: str = "") -> dict[str, float]:
        """The same of anything that answers; ``what``: say under this name how many samples it has answered."""
        found: list[tuple[dict[str, Array], Arrays]] = []
        for seen in (piece for chunk in views.clean(self.task, self.split) for piece in views.pieces(chunk)):
            found.append((self.task.answer({"model": predict}, seen.inputs), seen.targets))
            if what:
                advance(what, int(seen.indices[-1]) + 1, len(self.split))
        measured = {"score": self.task.aggregate(scored(self.task, found))}
        if self.teacher is not None:
            measured |= self.against(self.teacher, [outputs for outputs, _ in found])
        return {name: round(value, 6) for name, value in measured.items()}

    def against(self, teacher: Mapping[str, Rows], parts: list[dict[str, Array]]) -> dict[str, float]:
        """CORR and, where there are logits, KDL with the teacher, both of the worst output."""
        ends = np.cumsum([0, *(len(next(iter(part.values()))) for part in parts)])
        chunks = [np.arange(*pair) for pair in pairwise(ends)]
        pairs = {
            name: (
                joined(output, [from_logits(output.kind, teacher[name][chunk]) for chunk in chunks]),
                joined(output, [part[name] for part in parts]),
            )
            for name, output in self.task.outputs.items()
        }
        found = worst([compare(output.kind, *pairs[name]).numbers for name, output in self.task.outputs.items()])
        return {name: value for name in ("correlation", "kdl") if (value := found[name]) is not None}

    def oacc(self) -> float | None:
        """OACC on validation: the teacher's own score, from its stored answers; None without them."""
        if self.teacher is None:
            return None
        kinds = {name: output.kind for name, output in self.task.outputs.items()}
        found = [
            ({name: from_logits(kinds[name], rows[seen.indices]) for name, rows in self.teacher.items()}, seen.targets)
            for seen in views.clean(self.task, self.split)
        ]
        return round(self.task.aggregate(scored(self.task, found)), 6)


def scored(task: Task, chunks: Sequence[tuple[Arrays, Arrays]]) -> npt.NDArray[np.float64]:
    """The statistics of all samples, from chunks of outputs and targets.

    They are scored at once, as test is, because a sample's may depend on the others (on which is the nearest, say); chunk by
    chunk only where these have lengths of their own.
    """
    outputs, targets = together([chunk[0] for chunk in chunks]), together([chunk[1] for chunk in chunks])
    if outputs is None or targets is None:
        return np.concatenate([task.score(*chunk) for chunk in chunks])
    return task.score(outputs, targets)


def together(parts: Sequence[Arrays]) -> dict[str, Array] | None:
    """One after the other; None where a shape differs."""
    if any(len({part[name].shape[1:] for part in parts}) > 1 for name in parts[0]):
        return None
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def joined(output: Output, parts: Sequence[Array]) -> Array:
    """Of all samples; where chunks have lengths of their own, of all rows of classes ``(R, classes)`` or values ``(R, 1)``."""
    if len({part.shape[1:] for part in parts}) > 1:
        parts = [part.reshape(-1, part.shape[-1] if output.kind in CLASSIFYING else 1) for part in parts]
    return np.concatenate(parts)
