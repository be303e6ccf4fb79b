"""The networks. REPLACE the teacher with your own: a function that returns a torch.nn.Module."""

from __future__ import annotations

from torch import nn

COUNT = 2  # classes
WIDTH = 2  # features


def teacher(width: int = 128) -> nn.Module:
    return nn.Sequential(
        nn.Linear(WIDTH, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, COUNT),
    )


def student(width: int = 32) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, width), nn.ReLU(), nn.Linear(width, COUNT))
