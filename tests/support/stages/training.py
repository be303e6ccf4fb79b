"""What tests of training stages share: an output folder, an interruption, small settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tasks import smoke

SENTENCES, READER = "tests.support.tasks.token_task:Sentences", "tests.support.tasks.token_task:teacher"


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
