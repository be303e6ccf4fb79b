"""The losses of features that a recipe can name by ``kind``, with their settings. No torch here, as in ``choices``.

To add one: a pure function in ``features`` or ``token_features``, a settings class here, its name in the unions at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from attar.stages.distillation.choices import (
    Choice,
    Cosine,
    Dist,
    Dkd,
    Kd,
    Layer,
    LogitPearson,
    Mse,
    Relations,
    Share,
)

if TYPE_CHECKING:
    from torch import Tensor

Projections = Layer | tuple[Layer, Layer, Layer]
"""The layers that make queries, keys and values, in this order, or the one layer that makes all three side by side."""


class OfFeatures(Choice):
    """A loss of features: ``loss(student, teacher, mask)``, what the two named layers answer to the same samples.

    ``mask`` ``(B, S)`` is true where a token is no padding; None where the task declares no padding. Only losses of tokens
    read it.
    """

    regressed: ClassVar[bool] = False
    """Whether the student's features must first pass a learned regressor to the shape of the teacher's."""

    student: Projections
    teacher: Projections


class _OfLayer(OfFeatures):
    student: Layer
    """The student's layer, as ``named_modules`` calls it."""
    teacher: Layer
    """The teacher's layer that it is compared with."""


class Rkd(_OfLayer):
    """``distance * features.rkd_distance + angle * features.rkd_angle``, by default 1 to 2 as in the authors' code."""

    shares = ("distance", "angle")
    kind: Literal["rkd"] = "rkd"
    distance: Share = 1.0
    """Of the distances between two samples."""
    angle: Share = 2.0
    """Of the angles between three."""

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distillation.features import rkd_angle, rkd_distance

        parts = {rkd_distance: self.distance, rkd_angle: self.angle}
        terms = [share * part(student, teacher) for part, share in parts.items() if share]
        return sum(terms[1:], terms[0])


class Similarity(_OfLayer):
    """``features.similarity``."""

    kind: Literal["similarity"] = "similarity"

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distillation.features import similarity

        return similarity(student, teacher)


class Attention(_OfLayer):
    """``features.attention``."""

    kind: Literal["attention"] = "attention"

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distillation.features import attention

        return attention(student, teacher)


class Hint(_OfLayer):
    """``features.hint``; ``student`` is what the regressor made of the student's features."""

    regressed = True
    kind: Literal["hint"] = "hint"

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distillation.features import hint

        return hint(student, teacher)


class HiddenStates(_OfLayer):
    """``token_features.hidden_states``; ``student`` is what the projection made of the student's states."""

    regressed = True
    kind: Literal["hidden_states"] = "hidden_states"
    input: str | None = None
    """The input whose padding is left out; not set: the only one that declares any."""

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distillation.token_features import hidden_states

        return hidden_states(student, teacher, mask)


class AttentionRelations(OfFeatures):
    """``token_features.attention_relations`` of queries, keys and values, as in MiniLMv2 by default."""

    shares = ("queries", "keys", "values", "attention")
    kind: Literal["attention_relations"] = "attention_relations"
    student: Projections
    """The student's layers that make queries, keys and values, or the one that makes all three side by side."""
    teacher: Projections
    """The teacher's layers, named alike."""
    input: str | None = None
    """As in ``hidden_states``."""
    heads: int = Field(ge=1)
    """Relation heads: both widths are cut into so many parts, whatever heads the networks have."""
    queries: Share = 1.0
    """Of the relations of queries to queries."""
    keys: Share = 1.0
    """Of keys to keys."""
    values: Share = 1.0
    """Of values to values."""
    attention: Share = 0.0
    """Of queries to keys, which is attention itself where ``heads`` are both networks' own (MiniLM)."""

    def __call__(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        from attar.stages.distillation.token_features import attention_relations

        shares = (self.queries, self.keys, self.values, self.attention)
        return attention_relations(student, teacher, self.heads, shares, mask)


FeatureLoss = Annotated[Rkd | Similarity | Attention | Hint | HiddenStates | AttentionRelations, Field(discriminator="kind")]
"""Every loss of features, by ``kind``. The teacher runs beside the student."""

AnyLoss = Annotated[
    Kd
    | Dkd
    | Dist
    | LogitPearson
    | Mse
    | Cosine
    | Relations
    | Rkd
    | Similarity
    | Attention
    | Hint
    | HiddenStates
    | AttentionRelations,
    Field(discriminator="kind"),
]
"""What ``losses`` in a recipe may hold."""
