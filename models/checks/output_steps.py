"""Checks a task's ``postprocess``, whose errors would otherwise appear when the bundle is written,
or never."""

from __future__ import annotations

from attar.models.checks.calls import format_place
from attar.models.checks.steps import check_file, check_step
from attar.models.preprocess import FileStep
from attar.models.task import Task
from attar.pipeline.core.errors import StageError, suggest_name

OUTPUT_STEPS_PACKAGE = "attar.models.postprocess"
"""A name, because an import would make every task depend on the libraries of every step."""


def check_output_steps(task: Task) -> None:
    """Raises StageError for a step that no bundle can hold, or that does not fit its output."""
    for name, steps in task.postprocess.items():
        where = format_place(task, f"postprocess[{name!r}]")
        if name not in task.outputs:
            raise StageError(f"{where} is of no output; {suggest_name(name, task.outputs)}")
        for step in steps:
            check_step(where, step, OUTPUT_STEPS_PACKAGE)
            if isinstance(step, FileStep):
                check_file(where, task, step)
            output = task.outputs[name]
            if misfit := step.explain_misfit(output.kind, output.size, output.end):
                raise StageError(f"{where} {misfit}")
