"""The networks: functions that return a torch.nn.Module, whose forward takes the task's inputs in
their order.

A network returns the task's outputs in theirs: one tensor, or a tuple of them. The recipe's
`options` are the arguments.
"""

from __future__ import annotations

from torch import nn


def teacher(width: int = 32) -> nn.Module:
    """REPLACE with your own, which is too big or too slow. This one slides filters over the
    signal."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 64)),  # (B, 64) -> (B, 1, 64)
        nn.Conv1d(1, width, 9, padding=4),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Conv1d(width, width, 9, padding=4),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),  # (B, width, 1) -> (B, width)
        nn.Linear(width, 3),
    )


def student(width: int = 64) -> nn.Module:
    """REPLACE with what is small and fast enough. This one has to learn every place where a burst
    may be."""
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )
