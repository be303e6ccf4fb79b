"""The losses of outputs that a recipe can name by ``kind``, and the distiller, with their settings.

No torch here: recipes are read where there is none. To add a loss: a pure function in ``losses``, a settings class here, its
name in the union. Losses of features are in ``feature_choices``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from attar.models.task import CLASSIFYING, Kind
from attar.pipeline.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Field(ge=0)]
"""The weight of one term of a loss."""
Temperature = Annotated[float, Field(gt=0)]
Layer = Annotated[str, Field(min_length=1)]
"""The name of a layer, as in ``named_modules``."""


class Choice(BaseModel):
    """One loss that a recipe names by its ``kind``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shares: ClassVar[tuple[str, ...]] = ()
    """The settings of which one must be above 0."""

    weight: float = Field(1.0, gt=0)
    """Of this loss in L_KD."""

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if self.shares and not any(getattr(self, name) for name in self.shares):
            names, zero = " and ".join(self.shares), "both 0" if len(self.shares) == 2 else "all 0"
            raise ValueError(f"{names} are {zero}, so the loss is always 0; raise one, or leave the loss out")
        return self


class _Loss(Choice):
    """A loss of outputs: ``loss(student, teacher, labels)``, all of one output; ``labels`` None where it has no target."""

    applies: ClassVar[frozenset[Kind]] = CLASSIFYING
    """The kinds of output that it is defined for."""
    labels: ClassVar[bool] = False
    """Whether it needs labels."""

    output: str | None = None
    """The only output that it reads; not set: all of a kind that it applies to."""


class Kd(_Loss):
    """``losses.kd``, with ``standardize`` on ``losses.standardized`` logits."""

    kind: Literal["kd"] = "kd"
    temperature: Temperature = 4.0
    """Softens both: logits are divided by it, the loss is multiplied by its square."""
    standardize: bool = False
    """Whether each sample's logits get mean 0 and deviation 1 first (Sun et al. 2024, arXiv:2403.01427)."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.distillation.losses import kd, standardized

        if self.standardize:
            student, teacher = standardized(student), standardized(teacher)
        return kd(student, teacher, self.temperature)


class Dkd(_Loss):
    """``losses.dkd``; the defaults are those of the paper for CIFAR-100."""

    shares = ("alpha", "beta")
    labels = True
    kind: Literal["dkd"] = "dkd"
    alpha: Share = 1.0
    """Of the label's probability against that of all other classes together."""
    beta: Share = 8.0
    """Of the other classes among themselves."""
    temperature: Temperature = 4.0
    """As in ``kd``."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.distillation.losses import dkd

        if labels is None:
            raise StageError("dkd needs labels, and this output has none; name its target in Output(target=...), or use kd")
        return dkd(student, teacher, labels, self.alpha, self.beta, self.temperature)


class Dist(_Loss):
    """``losses.dist``."""

    shares = ("beta", "gamma")
    kind: Literal["dist"] = "dist"
    beta: Share = 1.0
    """Of the classes of one sample."""
    gamma: Share = 1.0
    """Of the samples of one class."""
    temperature: Temperature = 1.0
    """As in ``kd``."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.distillation.losses import dist

        return dist(student, teacher, self.beta, self.gamma, self.temperature)


class LogitPearson(_Loss):
    """``losses.logit_pearson``."""

    kind: Literal["logit_pearson"] = "logit_pearson"

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.distillation.losses import logit_pearson

        return logit_pearson(student, teacher)


class Mse(_Loss):
    """``losses.mse``. Of embeddings it compares lengths too, as of a teacher whose vectors all have length 1."""

    applies = CLASSIFYING | {"values", "embedding"}
    kind: Literal["mse"] = "mse"

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.distillation.losses import mse

        return mse(student, teacher)


class Cosine(_Loss):
    """``losses.cosine``."""

    applies: ClassVar[frozenset[Kind]] = frozenset({"embedding"})
    kind: Literal["cosine"] = "cosine"

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.distillation.losses import cosine

        return cosine(student, teacher)


class Relations(_Loss):
    """How the stored embeddings of a batch lie to each other: ``features.similarity``, ``rkd_distance`` and ``rkd_angle``.

    All three of directions: each embedding is divided by its length, so that the products of ``similarity`` are cosines. The
    teacher is not asked.
    """

    shares = ("similarity", "distance", "angle")
    applies: ClassVar[frozenset[Kind]] = frozenset({"embedding"})
    kind: Literal["relations"] = "relations"
    similarity: Share = 1.0
    """The share of the mean squared difference of their cosines (Tung and Mori 2019, arXiv:1907.09682)."""
    distance: Share = 0.0
    """The share of RKD over pairs (Park et al. 2019, arXiv:1904.05068, eq. 4)."""
    angle: Share = 0.0
    """The share of RKD over triples (Park et al. 2019, eq. 6)."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.distillation.features import rkd_angle, rkd_distance, similarity
        from attar.stages.distillation.losses import unit

        p, q = unit(student, -1), unit(teacher, -1)
        parts = {similarity: self.similarity, rkd_distance: self.distance, rkd_angle: self.angle}
        terms = [share * part(p, q) for part, share in parts.items() if share]
        return sum(terms[1:], terms[0])


Loss = Annotated[Kd | Dkd | Dist | LogitPearson | Mse | Cosine | Relations, Field(discriminator="kind")]
"""Every loss of outputs, by ``kind``. It reads the stored answers."""
OF_OUTPUTS: tuple[type[_Loss], ...] = (Kd, Dkd, Dist, LogitPearson, Mse, Cosine, Relations)


def fitting(kind: str) -> str:
    """The losses for outputs of this kind, as a message names them: ``mse, cosine or relations``."""
    *names, last = [loss.model_fields["kind"].default for loss in OF_OUTPUTS if kind in loss.applies]
    return f"{', '.join(names)} or {last}" if names else str(last)


class Beside(BaseModel):
    """The distiller of ``stages.distillation.distiller``: trained beside the student, in no graph that is exported."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    teacher_attention: bool = True
    """Lean on the samples that the teacher assigns wrongly."""
    student_attention: bool = True
    """Lean on the samples on which the student does not yet say what the distiller believes."""
    teacher_share: float = Field(0.5, gt=0, lt=1)
    """The share of Teacher Attention where both are on; Student Attention has the rest."""
    weight: float = Field(1.0, gt=0)
    """Of what compares the student with the distiller, in L_KD, however many attentions are on."""
    hidden: int = Field(64, ge=1)
    """Units of its hidden layers."""
    floor: float = Field(0.5, gt=0, le=1)
    """The least weight of a sample where the mean is 1: it bounds the entropy of both attentions from below."""
    trunk: bool = True
    """Whether the distiller's own loss moves the student's layers below the features that it shares."""
    features: Layer | None = None
    """The student's layer whose answer is shared; not set: the input of its last linear layer."""
    output: str | None = None
    """The logits that it is about; not set: the only ones with a target."""

    @model_validator(mode="after")
    def _shares_between_two(self) -> Self:
        given = self.teacher_share != Beside.model_fields["teacher_share"].default  # what is dumped and read again has set it
        if given and not (self.teacher_attention and self.student_attention):
            raise ValueError(
                f"teacher_share = {self.teacher_share} divides the weight between two attentions, and not both are on; "
                "leave it out, or set teacher_attention and student_attention to true"
            )
        return self

    def compute_shares(self) -> tuple[float, float]:
        """Return the shares of Teacher and of Student Attention: 0 of one that is off, 1 together where one is on."""
        if self.teacher_attention and self.student_attention:
            return self.teacher_share, 1 - self.teacher_share
        return float(self.teacher_attention), float(self.student_attention)
