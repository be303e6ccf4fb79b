"""The losses of an epoch, which stay on the device until they are looked at."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attar.pipeline.team import Team

READ_STEPS = 50
"""The most steps on a GPU after which the losses are read: the host waits there for all of them."""
READ_SECONDS = 1.0
"""About the longest time between two looks on a GPU, where steps take long."""


@dataclass
class LossWatch:
    """Adds up the losses of the steps, and finds the first that is no number.

    A GPU computes the steps that follow before this one is known, unless its loss is read. All
    processes of a team read after the same step, which the clock of rank 0 decides at the look
    before.
    """

    device: torch.device
    team: Team = field(default_factory=Team)
    sum: Tensor = field(init=False)
    """Sum of the losses of the finished steps."""
    unread: list[Tensor] = field(init=False, default_factory=list)
    interval: int = field(init=False, default=1)
    """Steps from one look to the next."""
    read_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, total: float = 0.0) -> None:
        """Begin an epoch, or go on with one whose losses have this sum."""
        self.sum = torch.zeros((), dtype=torch.float64, device=self.device) + total
        self.unread.clear()
        self.read_at = time.monotonic()

    def add(self, loss: Tensor) -> None:
        self.unread.append(loss)
        self.sum += loss.double()

    def is_due(self) -> bool:
        """Whether to read the losses now."""
        return self.device.type == "cpu" or len(self.unread) >= min(self.interval, READ_STEPS)

    def read(self) -> tuple[float, int | None]:
        """Return the sum, and how many steps ago the first loss was that is no number, if any."""
        losses = torch.stack([*(loss.double() for loss in self.unread), self.sum]).cpu().tolist()
        self.unread.clear()
        if self.device.type != "cpu":
            self.plan_next_look(len(losses) - 1)
        failed = [place for place, loss in enumerate(losses[:-1]) if not math.isfinite(loss)]
        return losses[-1], len(losses) - 2 - failed[0] if failed else None

    def plan_next_look(self, steps: int) -> None:
        """Agree on the number of steps to the next look, from how long so many steps took."""
        now = time.monotonic()
        passed, self.read_at = max(now - self.read_at, 1e-6), now
        fitting = min(READ_STEPS, int(steps * READ_SECONDS / passed))
        self.interval = int(self.team.broadcast(str(max(1, fitting))))
