"""Live: losses of features, for which the teacher runs beside the student. Stored answers hold no features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from attar.models import agreement
from attar.models.task import Arrays, Task
from attar.pipeline.errors import StageError
from attar.stages.artifacts import Model, Weights
from attar.stages.distillation.choices import FeatureLoss
from attar.stages.distillation.taps import Tap, named
from attar.stages.runtimes.torch import call

Autocast = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Pair:
    """One loss and the two layers that it compares."""

    loss: FeatureLoss
    student: Tap
    teacher: Tap


class Live(nn.Module):
    """The weighted sum of feature losses. Its parameters are the regressors of those losses that need one (FitNets)."""

    def __init__(
        self,
        task: Task,
        student: nn.Module,
        teacher: nn.Module,
        losses: Sequence[FeatureLoss],
        autocast: Autocast = nullcontext,
    ) -> None:
        """``autocast``: what the student runs in. The teacher runs in it too, and costs no more than it must."""
        super().__init__()
        self.autocast = autocast
        self.task, self.held = task, [teacher.eval().requires_grad_(False)]  # in a list: it is no part of what is trained
        self.pairs = [
            Pair(loss, Tap(named(student, loss.student, "student")), Tap(named(teacher, loss.teacher, "teacher")))
            for loss in losses
        ]
        self.regressors = nn.ModuleList(self.regressor(student, pair) for pair in self.pairs)

    def regressor(self, student: nn.Module, pair: Pair) -> nn.Module:
        """From the student's features to the shape of the teacher's: a linear map of channels, or nothing."""
        inputs = self.task.example(np.random.default_rng(0), batch=2)
        training = student.training
        student.eval()
        with torch.no_grad():
            call(student, self.task, inputs)
            call(self.held[0], self.task, inputs)
        student.train(training)
        got, wanted = pair.student(), pair.teacher()
        return regressor(got, wanted, pair.loss.kind) if pair.loss.regressed else nn.Identity()

    def forward(self, inputs: Arrays) -> Tensor:
        """For a batch that the student has just answered."""
        with torch.no_grad(), self.autocast():
            call(self.held[0], self.task, inputs)
        terms = [
            pair.loss.weight * pair.loss(regressed(pair.student()), pair.teacher())
            for pair, regressed in zip(self.pairs, self.regressors, strict=True)
        ]
        return torch.stack(terms).sum()


def layered(task: Task, teacher: Model) -> Weights:
    """The teacher, if its layers can be looked at while it reads the student's batch. Raises StageError if not."""
    if not isinstance(teacher, Weights):
        raise StageError(
            "a loss of features compares layers, and of an ONNX teacher only inputs and outputs are known; "
            "use losses of answers (kd, mse, dist, ...)"
        )
    if not agreement.same_inputs(task, teacher.reads()):
        raise StageError(
            "a loss of features runs the teacher on the student's own batch, but the teacher reads the inputs of "
            f"{teacher.facts['task']}, the student those of {type(task).__name__}; "
            "use losses of answers (kd, mse, dist, ...), which are stored"
        )
    return teacher


def regressor(got: Tensor, wanted: Tensor, kind: str) -> nn.Module:
    """A 1x1 convolution for images ``(B, C, H, W)``, a linear layer for rows ``(B, C)``. Raises StageError for other pairs."""
    if got.ndim == wanted.ndim == 4 and got.shape[2:] == wanted.shape[2:]:
        return nn.Conv2d(got.shape[1], wanted.shape[1], 1).to(got.device)
    if got.ndim == wanted.ndim == 2:
        return nn.Linear(got.shape[1], wanted.shape[1]).to(got.device)
    raise StageError(
        f"{kind}: the student's features are {list(got.shape[1:])} and the teacher's {list(wanted.shape[1:])}; "
        "name layers of the same height and width, or use attention, which compares maps of any size"
    )
