"""Objectives: what one step of training minimises. The loop knows no more of a loss than this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from attar.models.task import CLASSIFYING, Output, Split, Task
from attar.models.views import Seen
from attar.pipeline.core.errors import StageError
from attar.stages.learning.losses import cross_entropy, mse

Tensors = Mapping[str, Tensor]
Autocast = Callable[[], AbstractContextManager[None]]
"""Makes the context that a network runs in."""


class Objective(Protocol):
    def prepare(self, task: Task) -> None:
        """Refuse, before anything is trained, a task that this cannot be computed for. Raises StageError."""

    def transfer(self, task: Task) -> Split | None:
        """The samples without labels that are learned from too, where there are any."""

    def beside(self, task: Task, module: nn.Module, autocast: Autocast = nullcontext) -> nn.Module:
        """What is trained beside ``module`` and not kept; a module without parameters where there is nothing.

        ``autocast``: what ``module`` runs in.
        """

    def __call__(self, task: Task, outputs: Tensors, seen: Seen, view: int) -> Tensor:
        """The loss of float32 ``outputs`` for the samples ``seen`` in ``view``."""

    @property
    def notes(self) -> dict[str, list[float]]:
        """What was noted of the epoch that is going on: a checkpoint holds it, and puts it back."""

    def logged(self) -> dict[str, float]:
        """Means of what was noted since the last call, for the history."""


@dataclass(frozen=True)
class Labels:
    """L_other: cross-entropy where there are classes, squared error for values; the sum over the outputs that have a target."""

    smoothing: float = 0.0

    def prepare(self, task: Task) -> None:
        if not any(output.target for output in task.outputs.values()):
            raise StageError(
                f"no output of {type(task).__name__} has a target, so there are no labels to learn from; name one in "
                "Output(target=...), or adopt a teacher (weights or huggingface), distil with lambda_kd = 1, and leave out the "
                "control"
            )

    def transfer(self, task: Task) -> Split | None:
        return None

    def beside(self, task: Task, module: nn.Module, autocast: Autocast = nullcontext) -> nn.Module:
        return nn.Module()

    @property
    def notes(self) -> dict[str, list[float]]:
        return {}

    def logged(self) -> dict[str, float]:
        return {}

    def __call__(self, task: Task, outputs: Tensors, seen: Seen, view: int) -> Tensor:
        terms = [
            self.term(output, outputs[name][: len(target)], target)
            for name, output in task.outputs.items()
            if (target := target_of(output, seen, outputs[name].device)) is not None
        ]
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def term(self, output: Output, got: Tensor, target: Tensor) -> Tensor:
        if output.kind in CLASSIFYING:
            return cross_entropy(got, target, self.smoothing)
        return mse(got, target)


def target_of(output: Output, seen: Seen, device: torch.device) -> Tensor | None:
    """Class indices for logits and probabilities, float32 numbers for values; None where the output has no target."""
    if output.target is None:
        return None
    target = torch.from_numpy(np.asarray(seen.targets[output.target])).to(device)
    return target.long() if output.kind in CLASSIFYING else target.float()
