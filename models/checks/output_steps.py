"""Checks a task's ``postprocess``, whose errors would otherwise appear when the bundle is written,
or never."""

from __future__ import annotations

from typing import Any

from attar.models.checks.calls import format_place
from attar.models.checks.steps import check_file
from attar.models.postprocess import Detokenize
from attar.models.preprocess import FileStep
from attar.models.task import Output, Task
from attar.pipeline.core.errors import StageError, suggest_name

STEPS_PACKAGE = Detokenize.__module__.rpartition(".")[0]


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
            if isinstance(step, Detokenize):
                check_vocabulary(where, step, task.outputs[name])


def check_output_step(where: str, step: Any) -> None:
    kind = type(step)
    if kind.__module__.rpartition(".")[0] != STEPS_PACKAGE:
        raise StageError(
            f"{where} holds {kind.__name__}, which is no step of attar.models.postprocess: a "
            "bundle holds data, not code"
        )


def check_vocabulary(where: str, step: Detokenize, output: Output) -> None:
    """Raises StageError unless the tokenizer and the output have the same tokens."""
    if output.kind != "tokens":
        raise StageError(f"{where} detokenizes an output of {output.kind}; it reads tokens alone")
    if step.end != output.end:
        raise StageError(
            f"{where} has end = {step.end}, and the output has end = {output.end}; they must be "
            "equal"
        )
    size = step.tokenizer.get_vocab_size()
    if size != output.size:
        raise StageError(
            f"{where} has a tokenizer of {size} tokens, and the output has size = {output.size}; "
            "they must be equal"
        )
