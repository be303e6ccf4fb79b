"""Losses of features that are not stored. The teacher runs with the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import call_network, send_array
from attar.engines.runtimes.torch_features import list_token_inputs, pool_features
from attar.engines.runtimes.torch_layers import LayerHook, Projections, hook_layer, keep_padding
from attar.models import lengths
from attar.models.checks import agreement
from attar.models.task import Array, Arrays, Task
from attar.pipeline.core.errors import StageError, suggest_name
from attar.stages.artifacts import Model, Weights
from attar.stages.distill.feature_loss_settings import AttentionRelations, FeatureLoss, HiddenStates
from attar.stages.distill.regressors import create_regressor
from attar.stages.learning.lesson import Lesson
from attar.stages.learning.objective import Autocast


@dataclass(frozen=True)
class LayerPair:
    """One loss, the two layers that it compares, and the input whose padding it leaves out."""

    loss: FeatureLoss
    student: LayerHook | Projections
    teacher: LayerHook | Projections
    padded: str | None


class LiveFeatureLoss(nn.Module):
    """The weighted sum of feature losses. Its parameters are the regressors of hint-like losses."""

    def __init__(
        self,
        task: Task,
        student: nn.Module,
        teacher: nn.Module,
        losses: Sequence[FeatureLoss],
        autocast: Autocast = nullcontext,
    ) -> None:
        """``autocast`` is the context that the student runs in. The teacher runs in it, too."""
        super().__init__()
        self.autocast = autocast
        # In a list: the teacher must be no submodule, or it would be trained and saved.
        self.task, self.teacher_list = task, [teacher.eval().requires_grad_(False)]
        self.pairs = [pair_layers(loss, task, student, teacher) for loss in losses]
        are_pooled = any(loss.compares_rows for loss in losses)
        self.tokens = list_token_inputs(task) if are_pooled else []
        self.padded = {*self.tokens, *(pair.padded for pair in self.pairs if pair.padded)}
        inputs = task.example(np.random.default_rng(0), batch=2)
        call_once(student, task, inputs)
        call_once(teacher, task, inputs)
        device = self.pairs[0].student().device
        masks = {name: send_array(mask, device) for name, mask in self.mask_padding(inputs).items()}
        self.regressors = nn.ModuleList(
            create_regressor(pair.loss, *self.read_pair(pair, masks)) for pair in self.pairs
        )
        with torch.no_grad():  # a loss that cannot read its layers raises before the training
            self.compare_features(masks)

    @property
    def student_hooks(self) -> list[LayerHook | Projections]:
        return [pair.student for pair in self.pairs]

    def mask_padding(self, inputs: Arrays) -> dict[str, Array]:
        """Return where the inputs that the losses leave the padding out of hold content."""
        return {name: lengths.mask_padding(self.task, inputs, name) for name in self.padded}

    def forward(self, lesson: Lesson[Tensor], progress: float = 1.0) -> Tensor:
        """Return the loss for a lesson that the student has just answered."""
        with torch.no_grad(), self.autocast(), keep_padding(self.teacher_list[0]):
            call_network(self.teacher_list[0], self.task, lesson.inputs)
        masks = {name: lesson.parts["padding", name] for name in self.padded}
        return self.compare_features(masks, progress)

    def read_pair(self, pair: LayerPair, masks: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what the loss compares, of the last call of both networks."""
        student, teacher = pair.student(), pair.teacher()
        if not pair.loss.compares_rows:
            return student, teacher
        tokens = {name: masks[name] for name in self.tokens}
        names = f"the student's layer {pair.loss.student!r}", f"the teacher's {pair.loss.teacher!r}"
        return pool_features(student, tokens, names[0]), pool_features(teacher, tokens, names[1])

    def compare_features(self, masks: Mapping[str, Tensor], progress: float = 1.0) -> Tensor:
        """Return the weighted sum for the last call of both networks."""
        terms = []
        for pair, regressor in zip(self.pairs, self.regressors, strict=True):
            mask = None if pair.padded is None else masks[pair.padded]
            student, expected = self.read_pair(pair, masks)
            value = pair.loss(regressor(student), expected, mask)
            terms.append(pair.loss.compute_weight(progress) * value)
        return torch.stack(terms).sum()


def call_once(network: nn.Module, task: Task, inputs: Arrays) -> None:
    """Call a network in evaluation mode, so that the shapes of its features are known."""
    training = network.training
    network.eval()
    with torch.no_grad(), keep_padding(network):
        call_network(network, task, inputs)
    network.train(training)


def pair_layers(loss: FeatureLoss, task: Task, student: nn.Module, teacher: nn.Module) -> LayerPair:
    """Hook the layers that a loss names. Raises StageError if a layer does not exist."""
    if isinstance(loss, AttentionRelations):
        queries = Projections(student, loss.student, "student")
        expected = Projections(teacher, loss.teacher, "teacher")
        return LayerPair(loss, queries, expected, choose_padded(loss, task))
    padded = choose_padded(loss, task) if isinstance(loss, HiddenStates) else None
    hook = hook_layer(student, loss.student, "student")
    return LayerPair(loss, hook, hook_layer(teacher, loss.teacher, "teacher"), padded)


def choose_padded(loss: AttentionRelations | HiddenStates, task: Task) -> str | None:
    """Return the input whose padding is left out; None if no input declares padding.

    Raises StageError if it cannot be told because several inputs do.
    """
    declared = lengths.list_padded_inputs(task)
    if loss.input is not None and loss.input not in declared:
        raise StageError(
            f"{loss.kind}: no input {loss.input!r} of {type(task).__name__} declares its padding "
            f"(Tensor.pad); {suggest_name(loss.input, declared)}"
        )
    if loss.input is None and len(set(declared.values())) > 1:
        raise StageError(
            f"{loss.kind}: {', '.join(declared)} of {type(task).__name__} each declare padding; "
            "write input = ... to name the one whose tokens the layers read"
        )
    return loss.input or next(iter(declared), None)


def require_layers(task: Task, teacher: Model) -> Weights:
    """Return the teacher. Raises StageError if its layers cannot be read on the student's batch."""
    if not isinstance(teacher, Weights):
        raise StageError(
            "a loss of features compares layers, and of this teacher, which is no network in "
            "PyTorch, only inputs and outputs are known; use losses of answers (kd, mse, dist, ...)"
        )
    if not agreement.same_inputs(task, teacher.load_task()):
        raise StageError(
            "a loss of features runs the teacher on the student's own batch, but the teacher "
            f"reads the inputs of {teacher.facts['task']}, the student those of "
            f"{type(task).__name__}; use losses of answers (kd, mse, dist, ...), which are stored, "
            "or store its features too: features in [answers], and pooled = true"
        )
    return teacher
