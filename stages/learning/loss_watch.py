"""The losses of an epoch, which stay on the device until they are looked at."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

READ_STEPS = 50
"""Steps on a GPU after which the losses are read: the host waits there for all of them."""
READ_SECONDS = 1.0
"""The longest time between two looks on a GPU, where steps take long."""


@dataclass
class LossWatch:
    """Adds up the losses of the steps, and finds the first that is no number.

    A GPU computes the steps that follow before this one is known, unless its loss is read.
    """

    device: torch.device
    sum: Tensor = field(init=False)
    """Sum of the losses of the finished steps."""
    unread: list[Tensor] = field(init=False, default_factory=list)
    read_at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, total: float = 0.0) -> None:
        """Begin an epoch, or go on with one whose losses have this sum."""
        self.sum = torch.zeros((), dtype=torch.float64, device=self.device) + total
        self.unread.clear()

    def add(self, loss: Tensor) -> None:
        self.unread.append(loss)
        self.sum += loss.double()

    def is_due(self) -> bool:
        """Whether to read the losses now."""
        is_late = time.monotonic() > self.read_at + READ_SECONDS
        return self.device.type == "cpu" or len(self.unread) >= READ_STEPS or is_late

    def read(self) -> tuple[float, int | None]:
        """Return the sum, and how many steps ago the first loss was that is no number, if any."""
        losses = torch.stack([*(loss.double() for loss in self.unread), self.sum]).cpu().tolist()
        self.unread.clear()
        self.read_at = time.monotonic()
        failed = [place for place, loss in enumerate(losses[:-1]) if not math.isfinite(loss)]
        return losses[-1], len(losses) - 2 - failed[0] if failed else None
