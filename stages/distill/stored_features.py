"""Losses of features that are stored beside the teacher's answers. The teacher is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import send_array
from attar.engines.runtimes.torch_features import (
    check_samples,
    list_token_inputs,
    mask_tokens,
    pool_features,
)
from attar.engines.runtimes.torch_layers import hook_layer
from attar.models.task import Array, Arrays, Task
from attar.stages.distill.feature_loss_settings import FeatureLoss, FeatureLossSettings
from attar.stages.distill.live_features import call_once
from attar.stages.distill.regressors import create_regressor
from attar.stages.learning.lesson import Lesson


class StoredFeatureLoss(nn.Module):
    """The weighted sum of losses of stored features. Its parameters are their regressors."""

    def __init__(
        self,
        task: Task,
        student: nn.Module,
        losses: Sequence[FeatureLoss],
        widths: Mapping[str, int],
    ) -> None:
        """``widths``: how many numbers are stored of a sample, by the teacher's layer."""
        super().__init__()
        self.task, self.losses = task, losses
        self.layers = [str(loss.teacher) for loss in losses]
        self.names = [f"the student's layer {loss.student!r}" for loss in losses]
        self.student_hooks = [hook_layer(student, str(loss.student), "student") for loss in losses]
        inputs = task.example(np.random.default_rng(0), batch=2)
        call_once(student, task, inputs)
        device = self.student_hooks[0]().device
        masks = {name: send_array(mask, device) for name, mask in self.mask_padding(inputs).items()}
        rows = self.read_student(masks)
        for name, row in zip(self.names, rows, strict=True):
            check_samples(row, 2, name)
        stored = [
            row.new_zeros(2, widths[layer]) for row, layer in zip(rows, self.layers, strict=True)
        ]
        self.regressors = nn.ModuleList(map(create_regressor, losses, rows, stored))
        with torch.no_grad():  # a loss that cannot compare them raises before the training
            self.compare_features(rows, stored)

    def mask_padding(self, inputs: Arrays) -> dict[str, Array]:
        """Return where tokens are no padding."""
        return mask_tokens(self.task, inputs)

    def read_student(self, masks: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the features of the student's last call, by loss."""
        return [
            pool_features(hook(), masks, name)
            for hook, name in zip(self.student_hooks, self.names, strict=True)
        ]

    def forward(self, lesson: Lesson[Tensor], progress: float = 1.0) -> Tensor:
        """Return the loss for a lesson that the student has just answered."""
        masks = {name: lesson.parts["padding", name] for name in list_token_inputs(self.task)}
        stored = [lesson.parts["features", layer] for layer in self.layers]
        return self.compare_features(self.read_student(masks), stored, progress)

    def compare_features(
        self, student: Sequence[Tensor], stored: Sequence[Tensor], progress: float = 1.0
    ) -> Tensor:
        """Return the weighted sum for features ``(B, width)``, those that each loss reads."""
        terms = []
        for number, (loss, regressor) in enumerate(zip(self.losses, self.regressors, strict=True)):
            value = loss(regressor(student[number]), stored[number])
            terms.append(loss.compute_weight(progress) * value)
        return torch.stack(terms).sum()


def is_stored(loss: FeatureLossSettings, widths: Mapping[str, int]) -> bool:
    """Whether a loss reads stored features: it compares rows, and its teacher's are there."""
    return loss.compares_rows and loss.teacher in widths
