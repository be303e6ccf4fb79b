"""Evaluate a network on validation: its score, and its correlation with a teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from torch import nn

from attar.engines.runtimes.torch import make_graphs
from attar.models import views
from attar.models.generation import Decoding, Floats, find_decoding
from attar.models.probabilities import from_logits
from attar.models.rows import Rows
from attar.models.task import CLASSIFYING, Array, Arrays, Output, Predict, Task, find_known
from attar.models.top_answers import TOP, describe_following
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import report_progress
from attar.proof.comparison.sequences import compare_sequences
from attar.proof.estimates.metrics import compare_outputs, select_worst
from attar.stages.artifacts import Answers
from attar.stages.learning.paths import read_answer_path


class Validation:
    """``Validation(task, answers)(module)`` returns scores, in float32 and without augmentation."""

    def __init__(self, task: Task, answers: Answers | None = None) -> None:
        self.task = task
        self.split = task.split("validation")
        self.teacher = None if answers is None else answers.open_rows("validation")
        self.decoding = find_decoding(task)
        self.follows = answers is not None and not answers.why_opaque

    def __call__(self, module: nn.Module, epoch: int | None = None) -> dict[str, float]:
        """``epoch``: the one that the network has just finished, for messages."""
        device = next((parameter.device.type for parameter in module.parameters()), "cpu")
        return self.evaluate(make_graphs(module, self.task), device=device, epoch=epoch)

    def evaluate(
        self,
        graphs: Mapping[str, Predict],
        progress_name: str = "",
        device: str = "cpu",
        epoch: int | None = None,
    ) -> dict[str, float]:
        """Return the scores of any predictor, which computes on this device.

        ``progress_name``: the name under which progress is shown; empty: progress is not shown.
        Raises StageError if the task's score is no number.
        """
        chunks: list[tuple[dict[str, Array], Arrays]] = []
        followed: list[tuple[Floats, Floats]] = []
        for batch in self.iterate_batches(device):
            chunks.append((self.task.answer(graphs, batch.inputs), batch.targets))
            if self.decoding and self.teacher is not None and self.follows:
                followed.append(self.follow_teacher(self.teacher, self.decoding, graphs, batch))
            if progress_name:
                report_progress(progress_name, int(batch.indices[-1]) + 1, len(self.split))
        scores = {"score": compute_score(self.task, chunks, epoch)}
        if followed:
            scores |= compare_followed(followed)
        elif self.teacher is not None and not self.decoding:
            scores |= self.compare_with_teacher(self.teacher, chunks)
        return {name: round(value, 6) for name, value in scores.items()}

    def iterate_batches(self, device: str) -> Iterator[ViewBatch]:
        """Yield the samples in their order, without padding that none of a piece needs."""
        size = views.choose_piece(self.task, device)
        for chunk in views.iterate_clean(self.task, self.split):
            for piece in views.split_chunk(chunk, size):
                yield views.trim_padding(self.task, piece)

    @staticmethod
    def follow_teacher(
        teacher: Mapping[str, Rows],
        decoding: Decoding,
        graphs: Mapping[str, Predict],
        batch: ViewBatch,
    ) -> tuple[Floats, Floats]:
        """Return the teacher's next tokens along its own path, and the network's."""
        path = read_answer_path(teacher[decoding.output], batch.indices, decoding)
        top = teacher[decoding.output + TOP].read_top(batch.indices)
        return top.describe(), describe_following(graphs, batch.inputs, path, top, decoding)

    def compare_with_teacher(
        self, teacher: Mapping[str, Rows], parts: Sequence[tuple[Arrays, Arrays]]
    ) -> dict[str, float]:
        """Return CORR, and KDL if there are logits, of the output that is worst.

        ``parts`` are outputs and targets of consecutive samples.
        """
        ends = np.cumsum([0, *(len(next(iter(outputs.values()))) for outputs, _ in parts)])
        chunks = [np.arange(*pair) for pair in pairwise(ends)]
        masks = [find_known(self.task, targets) for _, targets in parts]
        comparisons = []
        for name, output in self.task.outputs.items():
            answers = [from_logits(output.kind, teacher[name][chunk]) for chunk in chunks]
            expected = join_output(output, answers)
            actual = join_output(output, [outputs[name] for outputs, _ in parts])
            known = None
            if name in masks[0]:
                joined = np.concatenate([mask[name].ravel() for mask in masks])
                known = joined.reshape(actual.shape[:-1])
            comparisons.append(compare_outputs(output.kind, expected, actual, known).numbers)
        numbers = select_worst(comparisons)
        kept = {name: numbers[name] for name in ("correlation", "kdl")}
        return {name: value for name, value in kept.items() if value is not None}

    def compute_oacc(self) -> float | None:
        """Return OACC on validation, the score of the stored answers; None without answers."""
        if self.teacher is None:
            return None
        chunks = []
        for batch in views.iterate_clean(self.task, self.split):
            outputs = read_outputs(self.task, self.teacher, batch.indices)
            chunks.append((outputs, batch.targets))
        return round(compute_score(self.task, chunks), 6)


def read_outputs(
    task: Task, teacher: Mapping[str, Rows], indices: npt.NDArray[np.int64]
) -> dict[str, Array]:
    """Return the stored outputs of these samples, as the task scores them."""
    if decoding := find_decoding(task):
        return {decoding.output: teacher[decoding.output][indices].astype(np.int64)}
    return {
        name: from_logits(task.outputs[name].kind, rows[indices]) for name, rows in teacher.items()
    }


def compare_followed(parts: Sequence[tuple[Floats, Floats]]) -> dict[str, float]:
    """Return CORR and KDL of next tokens; a part is padded to its own longest path."""
    longest = max(part[0].shape[1] for part in parts)
    sides = []
    for side in (0, 1):
        padding = [((0, 0), (0, longest - part[side].shape[1]), (0, 0)) for part in parts]
        padded = [
            np.pad(part[side], width, constant_values=np.nan)
            for part, width in zip(parts, padding, strict=True)
        ]
        sides.append(np.concatenate(padded))
    numbers = compare_sequences(sides[0], sides[1]).numbers
    return {name: value for name in ("correlation", "kdl") if (value := numbers[name]) is not None}


def compute_score(
    task: Task, chunks: Sequence[tuple[Arrays, Arrays]], epoch: int | None = None
) -> float:
    """Return the score of chunks of outputs and targets. Raises StageError if it is no number:
    nothing is better or worse than that."""
    score = task.aggregate(score_chunks(task, chunks))
    if not math.isfinite(score):
        when = "" if epoch is None else f" after epoch {epoch}"
        raise StageError(
            f"{type(task).__name__}.aggregate returned {score} for the validation split{when}; let "
            "it return a finite number for any answers, such as 0.0 for the correlation of answers "
            "that are all alike, and for any labels that the split holds"
        )
    return score


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
