"""The objective of a student that generates tokens, along stored paths and along the labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from attar.models.generation import Decoding, Integers, require_decoding
from attar.models.task import Array, Split, Task
from attar.models.top_answers import TOP
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import Answers
from attar.stages.distill.answers_check import check_answers
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.feature_loss_settings import AnyLoss
from attar.stages.distill.sequence_loss_settings import SEQUENCE_LOSSES, SequenceLoss
from attar.stages.learning import paths
from attar.stages.learning.lesson import Lesson, Part, select_places
from attar.stages.learning.objective import (
    Autocast,
    LabelObjective,
    Parts,
    Tensors,
    read_tokens,
    weigh_labels,
)
from attar.stages.learning.sequence_losses import StudentRows, TeacherRows, TokenRows


class SequenceObjective:
    """``L = lambda_kd * L_KD + (1 - lambda_kd) * L_other``, for an output of tokens.

    L_KD is the weighted sum of its losses along the stored path, which is the teacher's own
    sequence or the label (see ``Label.along``). L_other is the cross-entropy along the labels.
    Where both have a share, each sample is read twice, once along each path.
    """

    def __init__(
        self,
        lambda_kd: float,
        losses: Sequence[AnyLoss],
        answers: Answers,
        distiller: DistillerSettings | None = None,
        other: LabelObjective = LabelObjective(),  # noqa: B008  # it is frozen
    ) -> None:
        """``other`` is L_other."""
        self.lambda_kd, self.all_losses = lambda_kd, losses
        self.losses = [loss for loss in losses if isinstance(loss, SEQUENCE_LOSSES)]
        self.other, self.facts, self.distiller = other, answers.facts, distiller
        self.why_opaque = answers.why_opaque
        self.progress = 0.0
        self.views = [answers.open_learned_rows(view) for view in range(answers.facts["views"])]

    def check_task(self, task: Task) -> None:
        """Raises StageError for losses that are not of tokens, or of a path that is not stored."""
        if self.lambda_kd < 1:
            self.other.check_task(task)
        check_answers(self.facts, task)
        name = require_decoding(task).output
        others = [loss.kind for loss in self.all_losses if not isinstance(loss, SEQUENCE_LOSSES)]
        if others:
            raise StageError(
                f"{others[0]} is not for tokens, which the output {name!r} holds; write "
                "losses = [{ kind = 'word' }, { kind = 'sequence' }] in [student]"
            )
        if self.distiller is not None:
            raise StageError(
                f"the distiller reads logits, and the output {name!r} holds tokens; leave "
                "[student.distiller] out"
            )
        self.check_probabilities()
        if self.facts["along"] == "labels" and any(loss.kind == "sequence" for loss in self.losses):
            raise StageError(
                "the loss sequence learns the teacher's own sequences, and the answers are stored "
                "along the labels; set along = 'teacher' in [answers], or use { kind = 'word' } "
                "alone"
            )

    def check_probabilities(self) -> None:
        """Raises StageError for a loss of probabilities, if the teacher only translates."""
        kinds = [loss.kind for loss in self.losses if not isinstance(loss, SequenceLoss)]
        if self.why_opaque and kinds:
            raise StageError(
                f"the loss {kinds[0]} learns the teacher's probabilities, and "
                f"{self.why_opaque}; write losses = [{{ kind = 'sequence' }}] in [student]"
            )

    def find_transfer(self, task: Task) -> Split | None:
        return task.split("transfer") if task.transfer and self.lambda_kd else None

    def build_auxiliary(
        self, task: Task, module: nn.Module, autocast: Autocast = nullcontext
    ) -> nn.Module:
        return nn.Module()

    def describe_features(self) -> Facts:
        """Return nothing: losses of features are refused."""
        return {}

    @property
    def notes(self) -> dict[str, list[float]]:
        return {}

    def pop_means(self) -> dict[str, float]:
        return {}

    def set_progress(self, progress: float) -> float:
        self.progress = progress
        return progress

    @property
    def reads_network(self) -> bool:
        return True

    def read_lesson(self, task: Task, batch: ViewBatch, view: int) -> Lesson[Array]:
        """The logits along the second path follow those along the first one."""
        decoding = require_decoding(task)
        read = self.read_paths(task, batch, view, decoding)
        parts: Parts = {}
        label_weight = answer_weight = 1.0
        if "answers" in read:
            parts |= self.read_answers(read["answers"], batch, view, decoding)
            answer_weight = self.weigh_answers(read["answers"], batch, view, decoding)
        if "labels" in read:
            start = len(read["answers"]) if "answers" in read else 0
            parts |= read_tokens(read["labels"], decoding, start)
            label_weight = weigh_labels(batch, read["labels"], decoding)
        inputs = paths.add_prefixes(batch.inputs, list(read.values()), decoding)
        return Lesson(inputs, parts, batch.labelled, label_weight, answer_weight)

    def weigh_answers(
        self, path: Integers, batch: ViewBatch, view: int, decoding: Decoding
    ) -> float:
        """Return what the mean over the tokens of a stored path weighs."""
        step = batch.step
        if step is None or step.parts == 1:
            return 1.0
        whole = paths.read_answer_path(self.views[view][decoding.output], step.indices, decoding)
        total = paths.count_tokens(whole, decoding) / step.known
        return step.weigh(paths.count_tokens(path, decoding), total)

    def read_answers(
        self, path: Integers, batch: ViewBatch, view: int, decoding: Decoding
    ) -> Parts:
        """Return the teacher's tokens along the stored path, and the likeliest ones, if they are
        known."""
        name, own = decoding.output, paths.mask_path(path, decoding)
        said: Parts = {
            ("answers", name): path[own],
            ("answer places", name): paths.list_token_places(path, decoding),
        }
        if self.why_opaque:
            return said
        top = self.views[view][name + TOP].read_top(batch.indices)
        return said | {
            ("top values", name): top.values[:, : path.shape[1]][own],
            ("top tokens", name): top.indices[:, : path.shape[1]][own],
            ("rest", name): top.rest[:, : path.shape[1]][own],
        }

    def read_paths(
        self, task: Task, batch: ViewBatch, view: int, decoding: Decoding
    ) -> dict[str, Integers]:
        """Return the paths that have a share in the loss: ``answers``, ``labels``, or both."""
        read = {}
        if self.lambda_kd > 0:
            rows = self.views[view][decoding.output]
            read["answers"] = paths.read_answer_path(rows, batch.indices, decoding)
        if self.lambda_kd < 1 and batch.labelled:
            read["labels"] = self.other.read_path(task, batch, decoding)
        return read

    def __call__(self, task: Task, outputs: Tensors, lesson: Lesson[Tensor]) -> Tensor:
        name, terms = require_decoding(task).output, []
        if self.lambda_kd > 0:
            learned = self.compute_path_loss(name, outputs[name], lesson)
            terms.append(self.lambda_kd * lesson.answer_weight * learned)
        if lesson.find("labels", name) is not None:
            terms.append((1 - self.lambda_kd) * self.other(task, outputs, lesson))
        return torch.stack(terms).sum()

    def compute_path_loss(self, name: str, logits: Tensor, lesson: Lesson[Tensor]) -> Tensor:
        """Return L_KD along the stored path."""
        tokens = lesson.parts["answers", name]
        if not len(tokens):
            return logits.sum() * 0  # the teacher says nothing of any of these samples
        student = StudentRows(select_places(logits, lesson.find("answer places", name)))
        if self.why_opaque:
            return self.sum_sequence_losses(student, TokenRows(tokens))
        top: tuple[Part, ...] = ("top values", "top tokens", "rest")
        teacher = TeacherRows(tokens, *(lesson.parts[part, name] for part in top))
        weighted = ((loss.compute_weight(self.progress), loss) for loss in self.losses)
        terms = [weight * loss(student, teacher) for weight, loss in weighted]
        return torch.stack(terms).sum()

    def sum_sequence_losses(self, student: StudentRows, teacher: TokenRows) -> Tensor:
        """Return the weighted sum of the losses that need the teacher's tokens alone."""
        losses = [loss for loss in self.losses if isinstance(loss, SequenceLoss)]
        weighted = ((loss.compute_weight(self.progress), loss) for loss in losses)
        return torch.stack([weight * loss(student, teacher) for weight, loss in weighted]).sum()
