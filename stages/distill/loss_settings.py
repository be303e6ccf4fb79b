"""The settings of the losses of outputs, which a recipe names by ``kind``.

This module imports no torch: recipes are read without it. To add a loss, add a pure function to
``losses`` and a settings class here, and its name to the union. The settings of losses of features
are in ``feature_loss_settings``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from attar.models.task import CLASSIFYING, Kind
from attar.pipeline.core.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Field(ge=0)]
"""The weight of one term of a loss."""
Temperature = Annotated[float, Field(gt=0)]
LayerName = Annotated[str, Field(min_length=1)]
"""The name of a layer, as in ``named_modules``."""


class LossSettings(BaseModel):
    """The settings of one loss, which a recipe names by its ``kind``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share_names: ClassVar[tuple[str, ...]] = ()
    """The settings of which at least one must be above 0."""

    weight: float = Field(1.0, gt=0)
    """Weight of this loss in L_KD."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """The share of all steps in which the weight rises linearly from 0; 0: it is whole at once."""

    def compute_weight(self, progress: float) -> float:
        """Return the weight when ``progress`` of all steps, from 0 to 1, is done."""
        return self.weight * (min(1.0, progress / self.warmup) if self.warmup else 1.0)

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.share_names and not any(getattr(self, name) for name in self.share_names):
            names = " and ".join(self.share_names)
            all_of = "both" if len(self.share_names) == 2 else "all"
            raise ValueError(
                f"{names} are {all_of} 0, so the loss is always 0; raise one, or leave the loss out"
            )
        return self


class OutputLoss(LossSettings):
    """A loss of one output: ``loss(student, teacher, labels)``.

    ``labels`` is None if the output has no target.
    """

    output_kinds: ClassVar[frozenset[Kind]] = CLASSIFYING
    """The kinds of output that the loss is defined for."""
    needs_labels: ClassVar[bool] = False
    """Whether it needs labels."""

    output: str | None = None
    """The only output that it reads; unset: all outputs of its kinds."""


class Kd(OutputLoss):
    """``losses.kd``, with ``standardize`` on ``losses.standardize_logits`` logits."""

    kind: Literal["kd"] = "kd"
    temperature: Temperature = 4.0
    """Divides the logits, which softens both distributions. Its square multiplies the loss."""
    standardize: bool = False
    """Whether to give each sample's logits mean 0 and deviation 1 first (Sun et al. 2024,
    arXiv:2403.01427)."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.learning.losses import kd, standardize_logits

        if self.standardize:
            student, teacher = standardize_logits(student), standardize_logits(teacher)
        return kd(student, teacher, self.temperature)


class Dkd(OutputLoss):
    """``losses.dkd``; the defaults are those of the paper for CIFAR-100."""

    share_names = ("alpha", "beta")
    needs_labels = True
    kind: Literal["dkd"] = "dkd"
    alpha: Share = 1.0
    """Share of the label's probability against that of all other classes together."""
    beta: Share = 8.0
    """Share of the other classes among themselves."""
    temperature: Temperature = 4.0
    """As in ``kd``."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.learning.losses import dkd

        if labels is None:
            raise StageError(
                "dkd needs labels, and this output has none; name its target in "
                "Output(target=...), or use kd"
            )
        return dkd(student, teacher, labels, self.alpha, self.beta, self.temperature)


class Dist(OutputLoss):
    """``losses.dist``."""

    share_names = ("beta", "gamma")
    kind: Literal["dist"] = "dist"
    beta: Share = 1.0
    """Share of the classes of one sample."""
    gamma: Share = 1.0
    """Share of the samples of one class."""
    temperature: Temperature = 1.0
    """As in ``kd``."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.learning.losses import dist

        return dist(student, teacher, self.beta, self.gamma, self.temperature)


class LogitPearson(OutputLoss):
    """``losses.logit_pearson``."""

    kind: Literal["logit_pearson"] = "logit_pearson"

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.learning.losses import logit_pearson

        return logit_pearson(student, teacher)


class BinaryKd(OutputLoss):
    """``losses.binary_kd``."""

    output_kinds: ClassVar[frozenset[Kind]] = frozenset({"multilabel"})
    kind: Literal["binary_kd"] = "binary_kd"
    temperature: Temperature = 1.0
    """As in ``kd``."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.learning.losses import binary_kd

        return binary_kd(student, teacher, self.temperature)


class LabelPearson(OutputLoss):
    """``losses.label_pearson``."""

    output_kinds: ClassVar[frozenset[Kind]] = frozenset({"multilabel"})
    kind: Literal["label_pearson"] = "label_pearson"

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.learning.losses import label_pearson

        return label_pearson(student, teacher)


class Mse(OutputLoss):
    """``losses.mse``. It compares the lengths of embeddings, too."""

    output_kinds = CLASSIFYING | {"values", "embedding", "multilabel"}
    kind: Literal["mse"] = "mse"

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.learning.losses import mse

        return mse(student, teacher)


class Cosine(OutputLoss):
    """``losses.cosine``."""

    output_kinds: ClassVar[frozenset[Kind]] = frozenset({"embedding"})
    kind: Literal["cosine"] = "cosine"

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.learning.losses import cosine

        return cosine(student, teacher)


class Relations(OutputLoss):
    """Relations among the embeddings of a batch, by functions of ``feature_losses``.

    They are ``similarity``, ``rkd_distance`` and ``rkd_angle``. Each embedding is divided by its
    length, so the products of ``similarity`` are cosines. The stored answers are read; the teacher
    is not called.
    """

    share_names = ("similarity", "distance", "angle")
    output_kinds: ClassVar[frozenset[Kind]] = frozenset({"embedding"})
    kind: Literal["relations"] = "relations"
    similarity: Share = 1.0
    """The share of the mean squared difference of their cosines (Tung and Mori 2019,
    arXiv:1907.09682)."""
    distance: Share = 0.0
    """The share of RKD over pairs (Park et al. 2019, arXiv:1904.05068, eq. 4)."""
    angle: Share = 0.0
    """The share of RKD over triples (Park et al. 2019, eq. 6)."""

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        from attar.stages.distill.feature_losses import rkd_angle, rkd_distance, similarity
        from attar.stages.learning.losses import scale_to_unit_norm

        p, q = scale_to_unit_norm(student, -1), scale_to_unit_norm(teacher, -1)
        parts = {similarity: self.similarity, rkd_distance: self.distance, rkd_angle: self.angle}
        terms = [share * part(p, q) for part, share in parts.items() if share]
        return sum(terms[1:], terms[0])


Loss = Annotated[
    Kd | Dkd | Dist | LogitPearson | BinaryKd | LabelPearson | Mse | Cosine | Relations,
    Field(discriminator="kind"),
]
"""Every loss of outputs, by ``kind``. It reads the stored answers."""
OUTPUT_LOSSES: tuple[type[OutputLoss], ...] = (
    *(Kd, Dkd, Dist, LogitPearson),
    *(BinaryKd, LabelPearson),
    *(Mse, Cosine, Relations),
)


def list_suitable_losses(kind: str) -> list[str]:
    """Return the losses for outputs of this kind, the usual one first."""
    suitable = [loss for loss in OUTPUT_LOSSES if kind in loss.output_kinds]
    return [loss.model_fields["kind"].default for loss in suitable]


def format_suitable_losses(kind: str) -> str:
    """Return the losses for outputs of this kind, such as ``mse, cosine or relations``."""
    if kind == "tokens":
        return "word or sequence"
    *names, last = list_suitable_losses(kind)
    return f"{', '.join(names)} or {last}" if names else str(last)
