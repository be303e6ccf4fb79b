"""Evaluate a network on validation: its score, and its correlation with a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from torch import nn

from attar.engines.runtimes.torch import make_predictor
from attar.models import views
from attar.models.probabilities import from_logits
from attar.models.rows import Rows
from attar.models.task import CLASSIFYING, Array, Arrays, Output, Predict, Task
from attar.models.views import ViewBatch
from attar.pipeline.core.progress import report_progress
from attar.proof.metrics import compare_outputs, select_worst
from attar.stages.artifacts import Answers


class Validation:
    """``Validation(task, answers)(module)`` returns scores, in float32 and without augmentation."""

    def __init__(self, task: Task, answers: Answers | None = None) -> None:
        self.task = task
        self.split = task.split("validation")
        self.teacher = None if answers is None else answers.open_rows("validation")

    def __call__(self, module: nn.Module) -> dict[str, float]:
        return self.evaluate(make_predictor(module, self.task))

    def evaluate(self, predict: Predict, progress_name: str = "") -> dict[str, float]:
        """Return the scores of any predictor.

        ``progress_name``: the name under which progress is shown; empty: progress is not shown.
        """
        chunks: list[tuple[dict[str, Array], Arrays]] = []
        for batch in self.iterate_batches():
            chunks.append((self.task.answer({"model": predict}, batch.inputs), batch.targets))
            if progress_name:
                report_progress(progress_name, int(batch.indices[-1]) + 1, len(self.split))
        scores = {"score": self.task.aggregate(score_chunks(self.task, chunks))}
        if self.teacher is not None:
            scores |= self.compare_with_teacher(self.teacher, [outputs for outputs, _ in chunks])
        return {name: round(value, 6) for name, value in scores.items()}

    def iterate_batches(self) -> Iterator[ViewBatch]:
        """Yield the samples in their order."""
        for chunk in views.iterate_clean(self.task, self.split):
            yield from views.split_chunk(chunk)

    def compare_with_teacher(
        self, teacher: Mapping[str, Rows], parts: list[dict[str, Array]]
    ) -> dict[str, float]:
        """Return CORR, and KDL if there are logits, of the output that is worst."""
        ends = np.cumsum([0, *(len(next(iter(part.values()))) for part in parts)])
        chunks = [np.arange(*pair) for pair in pairwise(ends)]
        comparisons = []
        for name, output in self.task.outputs.items():
            answers = [from_logits(output.kind, teacher[name][chunk]) for chunk in chunks]
            expected = join_output(output, answers)
            actual = join_output(output, [part[name] for part in parts])
            comparisons.append(compare_outputs(output.kind, expected, actual).numbers)
        numbers = select_worst(comparisons)
        kept = {name: numbers[name] for name in ("correlation", "kdl")}
        return {name: value for name, value in kept.items() if value is not None}

    def compute_oacc(self) -> float | None:
        """Return OACC on validation, the score of the stored answers; None without answers."""
        if self.teacher is None:
            return None
        chunks = []
        for batch in views.iterate_clean(self.task, self.split):
            outputs = {}
            for name, rows in self.teacher.items():
                kind = self.task.outputs[name].kind
                outputs[name] = from_logits(kind, rows[batch.indices])
            chunks.append((outputs, batch.targets))
        return round(self.task.aggregate(score_chunks(self.task, chunks)), 6)


def score_chunks(task: Task, chunks: Sequence[tuple[Arrays, Arrays]]) -> npt.NDArray[np.float64]:
    """Return the statistics of all samples, from chunks of outputs and targets.

    All samples are scored at once, as on test, because the statistics of one may depend on others
    (such as its nearest neighbour). They are scored by chunk only if the chunks differ in shape.
    """
    outputs = join_parts([chunk[0] for chunk in chunks])
    targets = join_parts([chunk[1] for chunk in chunks])
    if outputs is None or targets is None:
        return np.concatenate([task.score(*chunk) for chunk in chunks])
    return task.score(outputs, targets)


def join_parts(parts: Sequence[Arrays]) -> dict[str, Array] | None:
    """Return the concatenated arrays; None if their shapes differ."""
    if any(len({part[name].shape[1:] for part in parts}) > 1 for name in parts[0]):
        return None
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def join_output(output: Output, parts: Sequence[Array]) -> Array:
    """Return an output of all samples.

    If the chunks differ in shape it is flattened: to ``(rows, classes)``, or ``(rows, 1)`` of
    values.
    """
    if len({part.shape[1:] for part in parts}) > 1:
        width = parts[0].shape[-1] if output.kind in CLASSIFYING else 1
        parts = [part.reshape(-1, width) for part in parts]
    return np.concatenate(parts)
