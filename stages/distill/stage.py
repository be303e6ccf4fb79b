"""Distill: the student learns what the teacher answered. Control: the same student learns without a teacher."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from attar.pipeline.core.stage import Facts, Stage, StoredKey
from attar.stages.artifacts import Answers, Model, Weights
from attar.stages.distill.choices import Beside, Kd
from attar.stages.distill.feature_choices import AnyLoss
from attar.stages.learning.settings import TrainingSettings


class Distill(TrainingSettings, Stage[Weights]):
    """Minimises ``L = lambda_kd * L_KD + (1 - lambda_kd) * L_other`` on the teacher's stored answers.

    Every epoch reads one recorded view, so that the teacher's answer belongs to exactly the input that the student sees
    (Beyer et al. 2022, arXiv:2106.05237).
    """

    distributed: ClassVar[bool] = True

    lambda_kd: float = Field(0.9, ge=0, le=1)
    """The share of L_KD; the labels have the rest."""
    losses: tuple[AnyLoss, ...] = Field((Kd(),), min_length=1)
    """L_KD is their weighted sum. Losses of features run the teacher beside the student; the others read the stored answers."""
    distiller: Beside | None = None
    """A small network that is trained beside the student and adds to L_KD; see ``stages.distill.distiller``."""
    other: Literal["cross-entropy"] = "cross-entropy"
    """L_other, for outputs that are logits; outputs that are numbers are fitted by their squared error."""

    start: StoredKey | None = None
    """The key of an earlier student: tensors of the same name and shape begin as its. The control begins from nothing."""

    def run(self, out: Path, *, teacher: Model, answers: Answers, start: Weights | None = None) -> Facts:
        """Calls the teacher only for losses of features."""
        from attar.stages.distill.objective import Distillation
        from attar.stages.distill.warm import Warm
        from attar.stages.learning.loop import Recorded, fit

        views = Recorded(answers.facts["seed"], answers.facts["views"])
        objective = Distillation(self.lambda_kd, self.losses, answers, self.distiller, teacher)
        if start is None:
            return fit(self, out, "student", objective, views, answers)
        warm = Warm(self, start)
        return {**fit(self, out, "student", objective, views, answers, warm), "started_from": warm.facts}


class Control(TrainingSettings, Stage[Weights]):
    """The student's network on the labels alone, as one trains it who has no teacher: what the teacher is worth.

    As many epochs as the student; where there is a transfer split these are shorter, for it has nothing to learn from there.
    """

    distributed: ClassVar[bool] = True

    enabled: bool = False
    """Whether it is trained at all."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """The share of the target that all classes get alike (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""
    recorded: bool = False
    """Whether it reads the student's recorded views in turn, which shows what the answers alone are worth; else a fresh one each
    epoch, which costs it nothing and is what one takes who has no teacher."""
    views: int = Field(4, ge=1)
    """Of recorded ones. As in ``answers``, whose setting it takes."""
    view_seed: int = Field(0, ge=0)
    """Of recorded ones. As in ``answers``, whose setting it takes."""

    def deciding(self) -> Set[str]:
        if not self.enabled:
            return {"enabled"}
        return super().deciding() - (set() if self.recorded else {"views", "view_seed"})

    def run(self, out: Path) -> Facts:
        from attar.stages.learning.loop import Fresh, Recorded, fit
        from attar.stages.learning.objective import Labels

        if not self.enabled:
            return {"off": True}
        seen = Recorded(self.view_seed, self.views) if self.recorded else Fresh(self.seed)
        return fit(self, out, "control", Labels(self.label_smoothing), seen)
