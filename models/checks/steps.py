"""Checks a task's ``preprocess``, whose errors would otherwise appear when the bundle is written,
or never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.models.preprocess import FileStep, Step
from attar.models.task import Task
from attar.pipeline.core.errors import StageError, suggest_name

STEPS_PACKAGE = Step.__module__.rpartition(".")[0]


def check_steps(task: Task) -> None:
    """Raises StageError for a step that no bundle can hold, and for one whose file is not part of
    the task's data."""
    for name, steps in task.preprocess.items():
        if name not in task.inputs:
            raise StageError(
                f"{format_preprocess(task)} has steps for {name!r}, which is no input; "
                f"{suggest_name(name, task.inputs)}"
            )
        for step in steps:
            check_step(f"{format_preprocess(task)}[{name!r}]", step, STEPS_PACKAGE)
            if isinstance(step, FileStep):
                check_file(format_preprocess(task), task, step)
            if step.pad is not None:
                check_pad(task, name, step.pad)


def format_preprocess(task: Task) -> str:
    return f"{type(task).__name__}.preprocess"


def check_step(where: str, step: Any, package: str) -> None:
    """Raises StageError for a step from another package. A list of all classes here would make
    every task depend on the libraries of every step."""
    kind = type(step)
    if not (isinstance(step, Step) and kind.__module__.rpartition(".")[0] == package):
        raise StageError(
            f"{where} holds {kind.__name__}, which is no step of {package}: a bundle holds data, "
            "not code; do it in the task's own methods, or inside the network"
        )


def check_file(where: str, task: Task, step: FileStep) -> None:
    listed = [item for item in task.data() if isinstance(item, Path)]
    within = {
        place
        for file in (step.file.absolute(), step.file.resolve())
        for place in (file, *file.parents)
    }
    if not any(item.absolute() in within for item in listed) and not any(
        item.resolve() in within for item in listed
    ):
        raise StageError(
            f"{where} reads {step.file}, which {type(task).__name__}.data() does "
            "not list: if it changed, nothing would be made again; add its path there"
        )


def check_pad(task: Task, name: str, pad: int) -> None:
    """A text that another one is longer than ends alike, whether both were tokenized together or
    joined afterwards."""
    if (declared := task.inputs[name].pad) != pad:
        raise StageError(
            f"{type(task).__name__}.inputs[{name!r}] has pad={declared}, but its tokenizer pads "
            f"with {pad}; declare it with pad={pad}"
        )
