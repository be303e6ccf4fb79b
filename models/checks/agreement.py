"""Agreement: whether two tasks are one problem with two sets of inputs, such as a teacher's and a
student's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from attar.models import preprocess
from attar.models.checks.task import REPEATED_SAMPLES, are_same_arrays, list_splits
from attar.models.preprocess import describe_steps
from attar.models.task import Arrays, Output, SplitName, Task
from attar.pipeline.core.errors import StageError


def describe_tokens(output: Output) -> dict[str, Any]:
    """Return what the tokens of an output mean, and how many there may be."""
    return {name: getattr(output, name) for name in ("size", "begin", "end", "pad", "growth")}


DECLARATIONS: Mapping[str, Callable[[Task], Any]] = {
    "outputs": lambda task: {
        name: (output.kind, list(output.axes)) for name, output in task.outputs.items()
    },
    "tokens": lambda task: {
        name: describe_tokens(output)
        for name, output in task.outputs.items()
        if output.kind == "tokens"
    },
    "postprocess": lambda task: describe_steps(task.postprocess),
    "classes": lambda task: list(task.classes),
    "score_name": lambda task: task.score_name,
    "transfer": lambda task: task.transfer,
    "ranges of its outputs' axes": lambda task: {
        axis: tuple(task.ranges[axis])
        for output in task.outputs.values()
        for axis in output.axes
        if isinstance(axis, str)
    },
}
"""Properties that must be equal, compared before any data are read."""


def check_agreement(student: Task, teacher: Task) -> None:
    """Raises StageError unless both tasks have the same outputs, classes, score, splits and raw
    samples, and the same views of them.

    ``inputs``, ``preprocess`` and the ranges of axes that no output has may differ: that is what a
    second task is for.
    """
    if type(student) is type(teacher):
        return
    if difference := next(find_differences(student, teacher), None):
        raise StageError(
            f"{type(teacher).__name__}, which the teacher reads, and {type(student).__name__}, "
            f"which the student reads, are not one problem: {difference}; derive both from one "
            "task, and let them differ in `inputs` and `preprocess` alone"
        )


def same_inputs(one: Task, two: Task) -> bool:
    """Whether the networks read the same: names, dtypes, axes and preprocessing."""
    if dict(one.inputs) != dict(two.inputs):
        return False
    return describe_steps(one.preprocess) == describe_steps(two.preprocess)


def find_differences(student: Task, teacher: Task) -> Iterator[str]:
    """Yield what keeps two tasks from being one problem, the cheapest comparison first."""
    for attribute, read in DECLARATIONS.items():
        one, two = read(student), read(teacher)
        if one != two:
            yield f"its {attribute}: {two!r}, the student's: {one!r}"
    for split in list_splits(student):
        yield from compare_splits(split, student, teacher)


def compare_splits(name: SplitName, student: Task, teacher: Task) -> Iterator[str]:
    one, two = student.split(name), teacher.split(name)
    if len(one) != len(two):
        yield f"its {name} split has {len(two)} samples, the student's {len(one)}"
        return
    rows = np.arange(min(REPEATED_SAMPLES, len(one)))
    first, second = one.take(rows), two.take(rows)
    same_targets = are_same_arrays(first.targets, second.targets)
    if not same_targets or not are_same_arrays(first.inputs, second.inputs):
        yield f"the first samples of {name} are not the same"
    elif name == "train":
        student_view = make_view(student, first.inputs)
        if not are_same_arrays(student_view, make_view(teacher, second.inputs)):
            yield "their `augment` makes different views of the same samples"


def make_view(task: Task, raw: Arrays) -> Arrays:
    return task.augment(preprocess.decode(task.preprocess, raw), np.random.default_rng(0))
