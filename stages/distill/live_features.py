"""Losses of features. The teacher runs with the student, because answers have no features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import call_network, send_array
from attar.models import lengths
from attar.models.checks import agreement
from attar.models.task import Array, Arrays, Task
from attar.pipeline.core.errors import StageError, suggest_name
from attar.stages.artifacts import Model, Weights
from attar.stages.distill.feature_loss_settings import AttentionRelations, FeatureLoss, HiddenStates
from attar.stages.distill.layer_hooks import LayerHook, Projections, hook_layer
from attar.stages.distill.token_losses import check_states
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
        self.padded = {pair.padded for pair in self.pairs if pair.padded is not None}
        inputs = task.example(np.random.default_rng(0), batch=2)
        self.call_networks(student, inputs)
        self.regressors = nn.ModuleList(create_regressor(pair) for pair in self.pairs)
        device = self.pairs[0].student().device
        masks = {name: send_array(mask, device) for name, mask in self.mask_padding(inputs).items()}
        with torch.no_grad():  # a loss that cannot read its layers raises before the training
            self.compare_features(masks)

    def call_networks(self, student: nn.Module, inputs: Arrays) -> None:
        """Call both networks once, so that the shapes of all features are known."""
        training = student.training
        student.eval()
        with torch.no_grad(), keep_padding(student), keep_padding(self.teacher_list[0]):
            call_network(student, self.task, inputs)
            call_network(self.teacher_list[0], self.task, inputs)
        student.train(training)

    def mask_padding(self, inputs: Arrays) -> dict[str, Array]:
        """Return where the inputs that the losses leave the padding out of hold content."""
        return {name: lengths.mask_padding(self.task, inputs, name) for name in self.padded}

    def forward(self, lesson: Lesson[Tensor], progress: float = 1.0) -> Tensor:
        """Return the loss for a lesson that the student has just answered."""
        with torch.no_grad(), self.autocast(), keep_padding(self.teacher_list[0]):
            call_network(self.teacher_list[0], self.task, lesson.inputs)
        masks = {name: lesson.parts["padding", name] for name in self.padded}
        return self.compare_features(masks, progress)

    def compare_features(self, masks: Mapping[str, Tensor], progress: float = 1.0) -> Tensor:
        """Return the weighted sum for the last call of both networks."""
        terms = []
        for pair, regressor in zip(self.pairs, self.regressors, strict=True):
            mask = None if pair.padded is None else masks[pair.padded]
            value = pair.loss(regressor(pair.student()), pair.teacher(), mask)
            terms.append(pair.loss.compute_weight(progress) * value)
        return torch.stack(terms).sum()


@contextmanager
def keep_padding(module: nn.Module) -> Iterator[None]:
    """Let the layers of its encoders return padded tensors.

    In evaluation mode an encoder with a padding mask gives its layers nested tensors, which have no
    padding and cannot be compared with others.
    """
    encoders = [layer for layer in module.modules() if isinstance(layer, nn.TransformerEncoder)]
    nesting = [encoder for encoder in encoders if encoder.use_nested_tensor]
    for encoder in nesting:
        encoder.use_nested_tensor = False
    try:
        yield
    finally:
        for encoder in nesting:
            encoder.use_nested_tensor = True


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
    declared = {}
    for name, tensor in task.inputs.items():
        if tensor.pad is not None and len(tensor.axes) > 1:
            axis = tensor.axes[1]
            declared[name] = axis if isinstance(axis, str) else name
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
            "a loss of features compares layers, and of an ONNX teacher only inputs and outputs "
            "are known; use losses of answers (kd, mse, dist, ...)"
        )
    if not agreement.same_inputs(task, teacher.load_task()):
        raise StageError(
            "a loss of features runs the teacher on the student's own batch, but the teacher "
            f"reads the inputs of {teacher.facts['task']}, the student those of "
            f"{type(task).__name__}; use losses of answers (kd, mse, dist, ...), which are stored"
        )
    return teacher


def create_regressor(pair: LayerPair) -> nn.Module:
    """Return the layer that maps the student's features to the teacher's shape.

    It changes nothing if the loss needs none. Raises StageError if no such layer exists.
    """
    if not pair.loss.needs_regressor:
        return nn.Identity()
    got, wanted = pair.student(), pair.teacher()
    if isinstance(pair.loss, HiddenStates):
        check_states(pair.loss.kind, got, wanted, None)
        return nn.Linear(got.shape[2], wanted.shape[2], bias=False).to(got.device)
    return create_channel_regressor(got, wanted)


def create_channel_regressor(got: Tensor, wanted: Tensor) -> nn.Module:
    """Return a 1x1 convolution for images ``(B, C, H, W)`` or a linear layer for rows ``(B, C)``.

    Raises StageError for other shapes.
    """
    if got.ndim == wanted.ndim == 4 and got.shape[2:] == wanted.shape[2:]:
        return nn.Conv2d(got.shape[1], wanted.shape[1], 1).to(got.device)
    if got.ndim == wanted.ndim == 2:
        return nn.Linear(got.shape[1], wanted.shape[1]).to(got.device)
    advice = "name layers of the same height and width, or use attention, for maps of any size"
    if got.ndim == wanted.ndim == 3:
        advice = "use hidden_states for states (sequence, hidden)"
    raise StageError(
        f"hint: the student's features are {list(got.shape[1:])} and the teacher's "
        f"{list(wanted.shape[1:])}; {advice}"
    )
