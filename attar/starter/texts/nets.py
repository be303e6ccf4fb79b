"""The networks. REPLACE the teacher with your own: a function that returns a torch.nn.Module."""

from __future__ import annotations

from torch import nn

from attar.models.networks.text import transformer

COUNT = 2  # classes
LENGTH = 128  # tokens that are read of a text; also the task's
VOCABULARY = 1000  # tokens that there are


def teacher(width: int = 128, layers: int = 2) -> nn.Module:
    return transformer(width, layers, vocabulary=VOCABULARY, length=LENGTH, classes=COUNT)


def student(width: int = 48, layers: int = 1) -> nn.Module:
    return transformer(width, layers, vocabulary=VOCABULARY, length=LENGTH, classes=COUNT)
