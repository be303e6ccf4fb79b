"""Distill: train the student on the teacher's answers. Control: train it without a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from attar.models.generation import find_decoding
from attar.models.mixing import Mixing, MixKind
from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts, Stage, StoredKey
from attar.stages.artifacts import Answers, Model, Weights
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.feature_loss_settings import AnyLoss, FeatureLossSettings
from attar.stages.distill.loss_settings import Kd
from attar.stages.learning.settings import TrainingSettings

RECORDED = frozenset({"views", "view_seed", "mix", "mix_alpha"})
"""The settings of a control that describe recorded views."""


class Distill(TrainingSettings, Stage[Weights]):
    """Minimizes ``L = lambda_kd * L_KD + (1 - lambda_kd) * L_other`` on stored answers.

    Each epoch reads one recorded view, so the teacher's answer belongs to exactly the input that
    the student sees (Beyer et al. 2022, arXiv:2106.05237).
    """

    distributed: ClassVar[bool] = True

    lambda_kd: float = Field(0.9, ge=0, le=1)
    """The share of L_KD; L_other has the rest."""
    losses: tuple[AnyLoss, ...] = Field((Kd(),), min_length=1)
    """L_KD is their weighted sum. They read the stored answers; losses of features read stored
    features, or run the teacher with the student."""
    label_weight: float = Field(1.0, gt=0)
    """Weight of the labels' loss in L_other, as each loss of L_KD has a ``weight``."""
    distiller: DistillerSettings | None = None
    """A small network that is trained with the student; see docs/learning.md."""
    other: Literal["cross-entropy"] = "cross-entropy"
    """L_other, for outputs that are logits. Multilabel outputs have the binary cross-entropy,
    outputs that are numbers the squared error."""

    start: StoredKey | None = None
    """The key of an earlier student, whose tensors of the same name and shape are the first
    weights. The control starts from random weights."""
    inherit: bool = False
    """Whether the first weights are the teacher's, cut to the student's layers and channels; see
    docs/learning.md."""
    layers: Mapping[str, tuple[int, ...]] = {}
    """The teacher's layers to inherit, by the name of their list; left out: evenly spread ones."""

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        if self.inherit and self.start is not None:
            raise ValueError("inherit and start both name the first weights; leave one out")
        if self.layers and not self.inherit:
            raise ValueError("layers are those to inherit; set inherit = true, or leave them out")
        return self

    @model_validator(mode="after")
    def _check_pretraining(self) -> Self:
        if self.patience and self.distiller is not None and self.distiller.pretraining:
            raise ValueError(
                "patience counts epochs without a better student, and pretraining of the distiller "
                "trains no student at first; leave one of the two out"
            )
        return self

    def check_settings(self) -> None:
        """What is inherited is known later, and then looked at by ``DistillationObjective``."""
        if not self.inherit and self.start is None and self.reads_layers_alone:
            from attar.stages.distill.reach import check_random_network

            task = load_task(self.task)
            check_random_network(task, self.network, self.options, self.feature_losses)

    @property
    def feature_losses(self) -> list[FeatureLossSettings]:
        return [loss for loss in self.losses if isinstance(loss, FeatureLossSettings)]

    @property
    def reads_layers_alone(self) -> bool:
        """Whether no answer and no label has a share in the loss."""
        reads_layers = len(self.feature_losses) == len(self.losses)
        return self.lambda_kd == 1 and reads_layers and self.distiller is None

    def run(
        self, out: Path, *, teacher: Model, answers: Answers, start: Weights | None = None
    ) -> Facts:
        """Train the student. The teacher is called only for features that are not stored.

        Raises StageError for a teacher that is no network of layers, if they are to be inherited.
        """
        from attar.stages.distill.objective import DistillationObjective
        from attar.stages.distill.sequence_objective import SequenceObjective
        from attar.stages.distill.warm_start import WarmStart
        from attar.stages.learning.loop import RecordedViews, train_network
        from attar.stages.learning.objective import LabelObjective

        self.check_settings()
        views = RecordedViews(answers.facts["seed"], answers.facts["views"], answers.mixing)
        other = LabelObjective(self.label_smoothing, self.label_weight)
        parts = (self.lambda_kd, self.losses, answers, self.distiller, other)
        origin = teacher if self.inherit else start
        if self.inherit and not isinstance(origin, Weights):
            raise StageError(
                "inherit takes the teacher's layers, and a graph or a function has none to give; "
                "set inherit = false"
            )
        layers = self.layers if self.inherit else None
        warm_start = WarmStart(self, origin, layers) if isinstance(origin, Weights) else None
        objective: DistillationObjective | SequenceObjective
        if find_decoding(load_task(self.task)):
            objective = SequenceObjective(*parts)
        else:
            objective = DistillationObjective(*parts, teacher, warm_start)
        facts = train_network(self, out, "student", objective, views, answers, warm_start)
        started = {} if warm_start is None else {"started_from": warm_start.facts}
        return {**facts, **objective.describe_features(), **started}


class Control(TrainingSettings, Stage[Weights]):
    """Trains the student's network on the labels alone, to measure the benefit of the teacher.

    It trains as many epochs as the student. With a transfer split they are shorter, because the
    control cannot learn from samples without labels.
    """

    distributed: ClassVar[bool] = True

    enabled: bool = False
    """Whether to train the control."""
    recorded: bool = False
    """Whether it reads the student's recorded views in rotation, which isolates the benefit of the
    answers; else it reads a new view in each epoch, as a training without a teacher would."""
    views: int = Field(4, ge=1)
    """Number of recorded views, by default that of ``answers``."""
    view_seed: int = Field(0, ge=0)
    """Seed of recorded views, by default that of ``answers``."""
    mix: tuple[MixKind, ...] = ()
    """How the samples of recorded views are mixed, by default as in ``answers``."""
    mix_alpha: float = Field(1.0, gt=0)
    """As in ``answers``."""

    def deciding(self) -> Set[str]:
        if not self.enabled:
            return {"enabled"}
        return super().deciding() - (set() if self.recorded else RECORDED)

    def run(self, out: Path) -> Facts:
        from attar.stages.learning.loop import FreshViews, RecordedViews, train_network
        from attar.stages.learning.objective import LabelObjective

        if not self.enabled:
            return {"off": True}
        mixing = Mixing(self.mix, self.mix_alpha) if self.mix else None
        recorded = RecordedViews(self.view_seed, self.views, mixing)
        views = recorded if self.recorded else FreshViews(self.seed)
        return train_network(self, out, "control", LabelObjective(self.label_smoothing), views)
