"""Checks a task's ``postprocess``, whose errors would otherwise appear when the bundle is written,
or never."""

from __future__ import annotations

from typing import Any

from attar.models.checks.calls import format_place
from attar.models.checks.steps import check_file
from attar.models.preprocess import FileStep, Step
from attar.models.task import Task
from attar.pipeline.core.errors import StageError, suggest_name

STEPS_PACKAGE = "attar.models.postprocess"
"""A name, because an import would make every task depend on the libraries of every step."""


def check_output_steps(task: Task) -> None:
    """Raises StageError for a step that no bundle can hold, or that does not fit its output."""
    for name, steps in task.postprocess.items():
        where = format_place(task, f"postprocess[{name!r}]")
        if name not in task.outputs:
            raise StageError(f"{where} is of no output; {suggest_name(name, task.outputs)}")
        for step in steps:
            check_output_step(where, step)
            if isinstance(step, FileStep):
                check_file(where, task, step)
            output = task.outputs[name]
            if misfit := step.explain_misfit(output.kind, output.size, output.end):
                raise StageError(f"{where} {misfit}")


def check_output_step(where: str, step: Any) -> None:
    kind = type(step)
    if not isinstance(step, Step) or kind.__module__.rpartition(".")[0] != STEPS_PACKAGE:
        raise StageError(
            f"{where} holds {kind.__name__}, which is no step of attar.models.postprocess: a "
            "bundle holds data, not code"
        )
