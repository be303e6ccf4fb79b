"""The networks. REPLACE the teacher with your own: a function that returns a torch.nn.Module."""

from __future__ import annotations

from torch import nn

from attar.models.networks.mobile import mobile
from attar.models.networks.residual import residual

COUNT = 2  # classes
STEM = 1  # stride of the first convolution


def teacher(width: int = 32, blocks: int = 1) -> nn.Module:
    return residual(width, blocks, STEM, channels=3, classes=COUNT)


def student(width: int = 16) -> nn.Module:
    return mobile(width, STEM, channels=3, classes=COUNT)
