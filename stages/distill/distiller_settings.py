"""The settings of the distiller, which a recipe holds; without torch."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from attar.stages.distill.loss_settings import LayerName


class DistillerSettings(BaseModel):
    """The settings of the distiller, a network that is trained with the student and never exported.

    See ``stages.distill.distiller``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    teacher_attention: bool = True
    """Whether to weigh samples more that the teacher classifies wrongly."""
    student_attention: bool = True
    """Whether to weigh samples more on which the student differs from the distiller."""
    teacher_share: float = Field(0.5, gt=0, lt=1)
    """The share of Teacher Attention if both are on; Student Attention has the rest."""
    weight: float = Field(1.0, gt=0)
    """Weight, in L_KD, of the comparison of the student with the distiller."""
    hidden: int = Field(64, ge=1)
    """Number of units of its hidden layers."""
    floor: float = Field(0.5, gt=0, le=1)
    """The smallest weight of a sample; the mean is 1. It bounds the attentions' entropy."""
    trunk: bool = True
    """Whether the gradient of the distiller's own loss reaches the shared layers."""
    pretraining: float = Field(0.0, ge=0, lt=1)
    """The share of all steps in which the distiller is trained alone, on a copy of the student's
    layers; then it is frozen, and the student is trained. 0: both are trained together."""
    features: LayerName | None = None
    """The student's layer whose output is shared; unset: the input of its last linear layer."""
    output: str | None = None
    """The output that it reads; unset: the only output of logits with a target."""

    @model_validator(mode="after")
    def _check_teacher_share(self) -> Self:
        # Not model_fields_set: settings that were dumped and read again have every field set.
        default = DistillerSettings.model_fields["teacher_share"].default
        are_both_on = self.teacher_attention and self.student_attention
        if self.teacher_share != default and not are_both_on:
            raise ValueError(
                f"teacher_share = {self.teacher_share} divides the weight between two attentions, "
                "and not both are on; leave it out, or set teacher_attention and "
                "student_attention to true"
            )
        return self

    @model_validator(mode="after")
    def _check_pretraining(self) -> Self:
        if self.pretraining and not self.trunk:
            raise ValueError(
                "pretraining trains the distiller with a copy of the student's layers, and trunk = "
                "false keeps them random; leave one of the two out"
            )
        return self

    def compute_shares(self) -> tuple[float, float]:
        """Return the shares of Teacher and of Student Attention; 0 for one that is off."""
        if self.teacher_attention and self.student_attention:
            return self.teacher_share, 1 - self.teacher_share
        return float(self.teacher_attention), float(self.student_attention)
