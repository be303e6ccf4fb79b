"""Live: losses of features, for which the teacher runs beside the student. Stored answers hold no features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import call_network
from attar.models import lengths
from attar.models.checks import agreement
from attar.models.task import Arrays, Task
from attar.pipeline.core.errors import StageError, suggest_name
from attar.stages.artifacts import Model, Weights
from attar.stages.distill.feature_choices import AttentionRelations, FeatureLoss, HiddenStates
from attar.stages.distill.taps import Projections, Tap, tap_layer
from attar.stages.distill.token_features import check_states
from attar.stages.learning.objective import Autocast


@dataclass(frozen=True)
class Pair:
    """One loss, what it compares, and the input whose padding it leaves out."""

    loss: FeatureLoss
    student: Tap | Projections
    teacher: Tap | Projections
    padded: str | None


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
        self.pairs = [pair_layers(loss, task, student, teacher) for loss in losses]
        self.padded = {pair.padded for pair in self.pairs if pair.padded is not None}
        inputs = task.example(np.random.default_rng(0), batch=2)
        self.probe(student, inputs)
        self.regressors = nn.ModuleList(
            regressor(pair.student(), pair.teacher(), pair.loss) if pair.loss.regressed else nn.Identity() for pair in self.pairs
        )
        with torch.no_grad():
            self.compare(inputs)  # what a loss cannot read is told before anything is trained

    def probe(self, student: nn.Module, inputs: Arrays) -> None:
        """Call both networks once, so that the shapes of all features are known."""
        training = student.training
        student.eval()
        with torch.no_grad():
            call_network(student, self.task, inputs)
            call_network(self.held[0], self.task, inputs)
        student.train(training)

    def forward(self, inputs: Arrays) -> Tensor:
        """For a batch that the student has just answered."""
        with torch.no_grad(), self.autocast():
            call_network(self.held[0], self.task, inputs)
        return self.compare(inputs)

    def compare(self, inputs: Arrays) -> Tensor:
        """Return the weighted sum for what both networks have just answered to ``inputs``."""
        masks: dict[str | None, Tensor] = {
            name: torch.from_numpy(lengths.mask_padding(self.task, inputs, name)) for name in self.padded
        }
        terms = []
        for pair, regressed in zip(self.pairs, self.regressors, strict=True):
            student, mask = regressed(pair.student()), masks.get(pair.padded)
            mask = None if mask is None else mask.to(student.device)
            terms.append(pair.loss.weight * pair.loss(student, pair.teacher(), mask))
        return torch.stack(terms).sum()


def pair_layers(loss: FeatureLoss, task: Task, student: nn.Module, teacher: nn.Module) -> Pair:
    """Listen to the layers that a loss names. Raises StageError for names that there are not."""
    if isinstance(loss, AttentionRelations):
        both = Projections(student, loss.student, "student"), Projections(teacher, loss.teacher, "teacher")
        return Pair(loss, *both, choose_padded(loss, task))
    padded = choose_padded(loss, task) if isinstance(loss, HiddenStates) else None
    return Pair(loss, tap_layer(student, loss.student, "student"), tap_layer(teacher, loss.teacher, "teacher"), padded)


def choose_padded(loss: AttentionRelations | HiddenStates, task: Task) -> str | None:
    """Return the input whose padding is no token; None where none declares any. Raises StageError where there are several."""
    padded = {name: tensor.axes[1:] for name, tensor in task.inputs.items() if tensor.pad is not None}
    declared = {name: axes[0] if isinstance(axes[0], str) else name for name, axes in padded.items() if axes}
    if loss.input is not None and loss.input not in declared:
        raise StageError(
            f"{loss.kind}: no input {loss.input!r} of {type(task).__name__} declares its padding (Tensor.pad); "
            f"{suggest_name(loss.input, declared)}"
        )
    if loss.input is None and len(set(declared.values())) > 1:
        raise StageError(
            f"{loss.kind}: {', '.join(declared)} of {type(task).__name__} have paddings of their own; write input = ... to say "
            "whose tokens the layers answer"
        )
    return loss.input or next(iter(declared), None)


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


def regressor(got: Tensor, wanted: Tensor, loss: FeatureLoss) -> nn.Module:
    """Return what maps the student's features to the shape of the teacher's. Raises StageError for pairs without such a map."""
    if isinstance(loss, HiddenStates):
        check_states(loss.kind, got, wanted, None)
        return nn.Linear(got.shape[2], wanted.shape[2], bias=False).to(got.device)
    return regress_channels(got, wanted)


def regress_channels(got: Tensor, wanted: Tensor) -> nn.Module:
    """A 1x1 convolution for images ``(B, C, H, W)``, a linear layer for rows ``(B, C)``. Raises StageError for other pairs."""
    if got.ndim == wanted.ndim == 4 and got.shape[2:] == wanted.shape[2:]:
        return nn.Conv2d(got.shape[1], wanted.shape[1], 1).to(got.device)
    if got.ndim == wanted.ndim == 2:
        return nn.Linear(got.shape[1], wanted.shape[1]).to(got.device)
    raise StageError(
        f"hint: the student's features are {list(got.shape[1:])} and the teacher's {list(wanted.shape[1:])}; "
        + (
            "use hidden_states for states (sequence, hidden)"
            if got.ndim == wanted.ndim == 3
            else "name layers of the same height and width, or use attention, which compares maps of any size"
        )
    )
