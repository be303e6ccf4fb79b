"""The last steps of preprocessing on a GPU, so that the bytes of images are sent and not floats.

Each operation is one of IEEE 754 that rounds once, in the order of ``models.preprocess``, so the
numbers have the same bits. A divisor is a tensor on the device: torch multiplies by the inverse of
one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from attar.models.preprocess import ChannelsFirst, Normalize, Scale, Step
from attar.pipeline.core.errors import StageError
from attar.stages.learning.lesson import Lesson

DeviceStep = Callable[[Tensor], Tensor]


class DeviceSteps:
    """The steps of each input that are left to the device."""

    def __init__(self, steps: Mapping[str, Sequence[Step]], device: torch.device) -> None:
        self.steps = {
            name: [create_step(step, device) for step in own] for name, own in steps.items() if own
        }

    def apply(self, lesson: Lesson[Tensor]) -> Lesson[Tensor]:
        if not self.steps:
            return lesson
        inputs = dict(lesson.inputs)
        for name, own in self.steps.items():
            for step in own:
                inputs[name] = step(inputs[name])
        return replace(lesson, inputs=inputs)


def create_step(step: Step, device: torch.device) -> DeviceStep:
    """Return a step as a function of tensors. Raises StageError for one that does not move."""
    if isinstance(step, ChannelsFirst):
        return lambda x: x.permute(0, 3, 1, 2)
    if isinstance(step, Scale):
        factor = float(np.float32(step.by))
        return lambda x: x.float() * factor
    if isinstance(step, Normalize):
        mean, std = (torch.tensor(each).to(device) for each in (step.mean, step.std))
        return lambda x: (x.float() - fit_channels(mean, x)) / fit_channels(std, x)
    raise StageError(f"{type(step).__name__} is computed on the host; set moves = False there")


def fit_channels(numbers: Tensor, x: Tensor) -> Tensor:
    """Return one number for each channel in the shape of ``x``: ``(1, channels, 1, ...)``."""
    return numbers.reshape(1, -1, *[1] * (x.ndim - 2))
