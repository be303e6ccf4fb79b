"""What tests of training stages share: an output folder, an interruption, small settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attar.models.task import Arrays, Task
from attar.models.views import ViewBatch
from attar.stages.distill.live_features import LiveFeatureLoss
from attar.stages.learning.lesson import Lesson, send_lesson
from attar.stages.learning.objective import Objective, Parts, Tensors
from tests.support.tasks import smoke

SENTENCES, READER = "tests.support.tasks.token_task:TokenSentences", "tests.support.tasks.token_task:teacher"


def make_out(folder: Path, name: str = "slot") -> Path:
    """Make and return the folder that a stage fills, at the depth at which a store makes it."""
    out = folder / name / "out"
    out.mkdir(parents=True, exist_ok=True)
    return out


class InterruptError(BaseException):
    """Not an Exception: like a signal, nothing may catch it."""


def interrupt_at(step: int) -> Callable[[str, int, int, str], None]:
    """Return a listener for progress that raises InterruptError at this step."""

    def listener(what: str, done: int, total: int, note: str) -> None:
        if done == step:
            raise InterruptError

    return listener


LEARN_SETTINGS: dict[str, Any] = {
    "task": smoke.DIGITS,
    "network": smoke.RESIDUAL,
    "options": {"width": 8},
    "batch": 64,
    "epochs": 2,
}


def measure_loss(objective: Objective, task: Task, outputs: Tensors, batch: ViewBatch, view: int) -> torch.Tensor:
    """Return the loss of these outputs for a batch of a view, as a step of training computes it on the CPU."""
    lesson = send_lesson(objective.read_lesson(task, batch, view), torch.device("cpu"))
    return objective(task, outputs, lesson)


def ask_features(loss: LiveFeatureLoss, inputs: Arrays) -> torch.Tensor:
    """Return the loss for inputs that the student has just answered."""
    masks: Parts = {("padding", name): mask for name, mask in loss.mask_padding(inputs).items()}
    asked: torch.Tensor = loss(send_lesson(Lesson(inputs, masks, 0), torch.device("cpu")))
    return asked
