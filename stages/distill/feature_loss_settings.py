"""The settings of the losses of features, which a recipe names by ``kind``; without torch.

To add a loss, add a pure function to ``feature_losses`` or ``token_losses`` and a settings class
here, and its name to the unions at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar.stages.distill.loss_settings import (
    BinaryKd,
    Cosine,
    Dist,
    Dkd,
    Kd,
    LabelPearson,
    LayerName,
    LogitPearson,
    LossSettings,
    Mse,
    Relations,
    Share,
)
from attar.stages.distill.sequence_loss_settings import SequenceLoss, TopPearsonLoss, WordLoss

if TYPE_CHECKING:
    from torch import Tensor

ProjectionLayers = LayerName | tuple[LayerName, LayerName, LayerName]
"""The layers that compute queries, keys and values, in this order, or the one that computes all."""


class FeatureLossSettings(LossSettings):
    """A loss of two layers' outputs for the same samples: ``loss(student, teacher, mask)``.

    ``mask`` ``(B, S)`` is false for padding; None if the task declares no padding. Only losses of
    tokens read it.
    """

    needs_regressor: ClassVar[bool] = False
    """Whether a trained regressor first maps the student's features to the teacher's shape."""

    student: ProjectionLayers
    teacher: ProjectionLayers

    @property
    def compares_rows(self) -> bool:
        """Whether it compares features, the means over positions, which can be stored."""
        return False


class LayerLossSettings(FeatureLossSettings):
    student: LayerName
    """The student's layer, by its name in ``named_modules``."""
    teacher: LayerName
    """The teacher's layer that it is compared with, by its name in ``named_modules``."""


class PoolableLossSettings(LayerLossSettings):
    pooled: bool = False
    """Whether the means of both layers over their positions are compared, padding aside. Then the
    teacher's are read from the stored answers, if ``features`` in [answers] names its layer."""

    @property
    def compares_rows(self) -> bool:
        return self.pooled


class RowLossSettings(LayerLossSettings):
    """A loss of features alone, the means of both layers over their positions."""

    @property
    def compares_rows(self) -> bool:
        return True


class Rkd(PoolableLossSettings):
    """``distance * feature_losses.rkd_distance + angle * feature_losses.rkd_angle``.

    The default shares, 1 to 2, are those of the authors' code.
    """

    share_names = ("distance", "angle")
    kind: Literal["rkd"] = "rkd"
    distance: Share = 1.0
    """Share of the distances between two samples."""
    angle: Share = 2.0
    """Share of the angles between three samples."""

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distill.feature_losses import rkd_angle, rkd_distance

        parts = {rkd_distance: self.distance, rkd_angle: self.angle}
        terms = [share * part(student, teacher) for part, share in parts.items() if share]
        return sum(terms[1:], terms[0])


class Similarity(PoolableLossSettings):
    """``feature_losses.similarity``."""

    kind: Literal["similarity"] = "similarity"

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distill.feature_losses import similarity

        return similarity(student, teacher)


class Attention(LayerLossSettings):
    """``feature_losses.attention``."""

    kind: Literal["attention"] = "attention"

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distill.feature_losses import attention

        return attention(student, teacher)


class Hint(PoolableLossSettings):
    """``feature_losses.hint``; ``student`` is the regressor's output for the student's features."""

    needs_regressor = True
    kind: Literal["hint"] = "hint"

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distill.feature_losses import hint

        return hint(student, teacher)


class SimKd(RowLossSettings):
    """``feature_losses.simkd``; ``student`` names the projector, a layer of the student's own."""

    kind: Literal["simkd"] = "simkd"

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distill.feature_losses import simkd

        return simkd(student, teacher)


class VkD(RowLossSettings):
    """``feature_losses.vkd``; ``student`` is the orthogonal projection of the student's
    features."""

    needs_regressor = True
    kind: Literal["vkd"] = "vkd"
    normalize: Literal["standardize", "whiten"] = "standardize"
    """How the teacher's features are normalised: each sample over its own numbers, or the samples
    of a batch to uncorrelated numbers of variance 1, as the paper has it for networks that generate
    images."""

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distill.feature_losses import standardize_features, vkd, whiten_features

        normalize = whiten_features if self.normalize == "whiten" else standardize_features
        return vkd(student, normalize(teacher))


class HiddenStates(LayerLossSettings):
    """``token_losses.hidden_states``; ``student`` is the projection of the student's states."""

    needs_regressor = True
    kind: Literal["hidden_states"] = "hidden_states"
    input: str | None = None
    """The input whose padding is left out; unset: the only input that declares padding."""

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distill.token_losses import hidden_states

        return hidden_states(student, teacher, mask)


class AttentionRelations(FeatureLossSettings):
    """``token_losses.attention_relations``; by default those of MiniLMv2."""

    share_names = ("queries", "keys", "values", "attention")
    kind: Literal["attention_relations"] = "attention_relations"
    student: ProjectionLayers
    """The student's layers that compute queries, keys and values, or the one that computes all."""
    teacher: ProjectionLayers
    """The teacher's layers, named in the same way."""
    input: str | None = None
    """The input whose padding is left out, as in ``hidden_states``."""
    heads: int = Field(ge=1)
    """Number of relation heads. The networks' own numbers may differ."""
    queries: Share = 1.0
    """Share of the relations of queries to queries."""
    keys: Share = 1.0
    """Share of the relations of keys to keys."""
    values: Share = 1.0
    """Share of the relations of values to values."""
    attention: Share = 0.0
    """Share of the relations of queries to keys. They are attention itself if ``heads`` is the
    number of heads of both networks (MiniLM)."""

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distill.token_losses import attention_relations

        shares = (self.queries, self.keys, self.values, self.attention)
        return attention_relations(student, teacher, self.heads, shares, mask)


FeatureLoss = Annotated[
    Rkd | Similarity | Attention | Hint | SimKd | VkD | HiddenStates | AttentionRelations,
    Field(discriminator="kind"),
]
"""Every loss of features, by ``kind``. Unless features are stored, the teacher runs together with
the student."""

AnyLoss = Annotated[
    Kd
    | Dkd
    | Dist
    | LogitPearson
    | BinaryKd
    | LabelPearson
    | Mse
    | Cosine
    | Relations
    | WordLoss
    | SequenceLoss
    | TopPearsonLoss
    | Rkd
    | Similarity
    | Attention
    | Hint
    | SimKd
    | VkD
    | HiddenStates
    | AttentionRelations,
    Field(discriminator="kind"),
]
"""What ``losses`` in a recipe may hold."""
