"""The settings of the losses of sequences, which a recipe names by ``kind``; without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from attar.stages.distill.loss_settings import LossSettings, Temperature

if TYPE_CHECKING:
    from torch import Tensor

    from attar.stages.learning.sequence_losses import StudentRows, TeacherRows, TokenRows


class WordLoss(LossSettings):
    """``sequence_losses.word_kd``, along the stored path, for outputs of tokens."""

    kind: Literal["word"] = "word"
    temperature: Temperature = 1.0
    """Softens both distributions; tokens that are not stored count as equally likely."""
    divergence: Literal["forward", "reverse", "jensen-shannon"] = "forward"
    """Which side the student is drawn to: ``forward`` covers all that the teacher may say,
    ``reverse`` keeps to what it most likely says."""

    def __call__(self, student: StudentRows, teacher: TeacherRows) -> Tensor:
        from attar.stages.learning.sequence_losses import word_kd

        return word_kd(student, teacher, self.temperature, self.divergence)


class SequenceLoss(LossSettings):
    """``sequence_losses.sequence_kd``: the teacher's own sequence as the label of tokens."""

    kind: Literal["sequence"] = "sequence"
    smoothing: float = Field(0.0, ge=0, lt=1)
    """The share of the target that is divided evenly among all tokens."""

    def __call__(self, student: StudentRows, teacher: TokenRows) -> Tensor:
        from attar.stages.learning.sequence_losses import sequence_kd

        return sequence_kd(student, teacher.tokens, self.smoothing)


class TopPearsonLoss(LossSettings):
    """``sequence_losses.top_pearson``, along the stored path, for outputs of tokens."""

    kind: Literal["top_pearson"] = "top_pearson"

    def __call__(self, student: StudentRows, teacher: TeacherRows) -> Tensor:
        from attar.stages.learning.sequence_losses import top_pearson

        return top_pearson(student, teacher)


SEQUENCE_LOSSES = (WordLoss, SequenceLoss, TopPearsonLoss)
