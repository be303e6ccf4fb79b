"""Answers of a teacher, stored or asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.models import views
from attar.models.task import Array, Task
from attar.stages.artifacts import Answers, Model, Weights
from attar.stages.label.stage import Label
from tests.support.tasks.smoke import artifact


def label_with(teacher: Model, out: Path, **settings: Any) -> Answers:
    """Store the answers of a teacher in ``out``."""
    stage = Label(**{"task": teacher.facts["task"], "views": 2, **settings})
    return artifact(Answers, out, stage.run(out, teacher=teacher))


def predict_view(task: Task, teacher: Weights, seen: views.ViewBatch) -> dict[str, Array]:
    """Return the teacher's outputs for one batch of a view."""
    with teacher.open() as predict:
        return predict(seen.inputs)
