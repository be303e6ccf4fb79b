"""Checks a task before anything is trained, so that an hour of training is not spent on a wrong
one."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from attar.models import preprocess
from attar.models.checks import content, labels
from attar.models.checks import steps as step_check
from attar.models.checks.calls import (
    CheckedSplit,
    format_place,
    open_split,
    report_errors_of,
)
from attar.models.checks.declarations import check_declarations
from attar.models.checks.failures import name_damaged_sample
from attar.models.checks.first_view import make_first_view
from attar.models.checks.output_steps import check_output_steps
from attar.models.checks.overlap import check_overlap, list_batches
from attar.models.checks.score import check_score, check_subsets
from attar.models.checks.tokens import check_first_labels
from attar.models.task import Arrays, Batch, SplitName, Task
from attar.models.tensors import find_mismatch
from attar.pipeline import team
from attar.pipeline.core.errors import StageError
from attar.pipeline.keys import data
from attar.pipeline.keys.deciders import compute_json_digest

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
"""The splits that every task has."""
JUDGED: tuple[SplitName, ...] = ("validation", "test")
"""The splits that networks are judged by. Where the teacher's answers alone teach, the labels of
train may say nothing."""
REPEATED_SAMPLES = 64  # samples that are read again to see whether they are the same


_checked: WeakKeyDictionary[type[Task], str] = WeakKeyDictionary()
"""The digest of the content of the data with which a task was checked in this process."""


def check_task_once(task: Task) -> None:
    """`check_task`, unless this process has checked the task with the same content of its data. Of
    a team the first process checks for all."""
    member = team.get_team()
    if member.leads:
        check_data(task)
        state = data.inspect_data(task.data())
        content = compute_json_digest(data.describe_content(state))
        if _checked.get(type(task)) != content:
            check_task(task)
            _checked[type(task)] = content
    if member.broadcast(""):
        raise StageError(f"process 0 found a mistake in {type(task).__name__}")


def check_task(task: Task) -> None:
    """Raises StageError if the task breaks the contract of ``Task``, or if its test split was
    trained on."""
    check_declarations(task)
    check_data(task)
    step_check.check_steps(task)
    check_output_steps(task)
    splits = {name: open_split(task, name) for name in list_splits(task)}
    for name, split in splits.items():
        check_split(task, name, split)
        check_repeats(task, name, split)
    check_views(task, splits["train"])
    for name in SPLITS:
        check_first_labels(task, splits[name])
    check_score(task, splits["test"])
    check_subsets(task, len(splits["test"]))
    check_overlap(splits)


def list_splits(task: Task) -> tuple[SplitName, ...]:
    return (*SPLITS, "transfer") if task.transfer else SPLITS


def check_data(task: Task) -> None:
    with report_errors_of(f"{format_place(task, 'data')}()"):
        listed: Any = task.data()
    # A string is a sequence too, but each of its letters would be a version.
    is_list = isinstance(listed, Sequence) and not isinstance(listed, str)
    if not is_list or not all(isinstance(item, (str, Path)) for item in listed):
        raise StageError(
            f"{format_place(task, 'data')}() must return a list of paths and version strings, got "
            f"{reprlib.repr(listed)}"
        )


def check_split(task: Task, name: SplitName, split: CheckedSplit) -> None:
    where = split.where
    if len(split) == 0:
        raise StageError(f"{where} is empty; all of {', '.join(list_splits(task))} need samples")
    check_inputs(task, where, make_first_view(task, split).inputs)
    whole = list_integer_inputs(task)
    steps = {key: task.preprocess[key] for key in whole if key in task.preprocess}
    classes = labels.ClassCheck(task)
    for indices in list_batches(split):
        with name_damaged_sample(task, split, indices):
            batch = split.take(indices)
            with report_errors_of(format_place(task, "preprocess")):
                integers = preprocess.apply(steps, {key: batch.inputs[key] for key in whole})
        if name == "transfer":
            labels.check_unlabelled(where, batch)
        else:
            labels.check_labels(task, where, batch)
            classes.add(batch)
        check_integers(task, where, integers)
    if name in JUDGED:
        classes.finish(where, len(split))


def list_integer_inputs(task: Task) -> list[str]:
    """Return the inputs that are integers after preprocessing."""
    return [name for name, tensor in task.inputs.items() if tensor.is_integer]


def check_integers(task: Task, where: str, inputs: Arrays) -> None:
    """Raises StageError for an integer outside ``[0, high)``: what an embedding does with it
    depends on the runtime."""
    for name in list_integer_inputs(task):
        array, high = np.asarray(inputs[name], np.int64), task.inputs[name].high or 0
        wrong = array[(array < 0) | (array >= high)]
        if wrong.size:
            raise StageError(
                f"{where} gives {name!r} the value {wrong[0]}, outside [0, high) with high = "
                f"{high}; set `high` of {format_place(task, f'inputs[{name!r}]')} to the largest "
                "value that may occur, plus 1"
            )


def check_repeats(task: Task, name: SplitName, split: CheckedSplit) -> None:
    """Raises StageError if a second call of `split` gives other samples: a teacher's answers are
    stored by index and read much later."""
    again = open_split(task, name)
    rows = np.arange(min(REPEATED_SAMPLES, len(split)))
    if len(again) == len(split):
        one, two = split.take(rows), again.take(rows)
        if are_same_arrays(one.inputs, two.inputs) and are_same_arrays(one.targets, two.targets):
            check_selection(split, rows, one)
            return
    raise StageError(
        f"{format_place(task, 'split')}({name!r}) gives other samples when it is called again; it "
        "must give the same ones in the same order every time: seed its generator, sort the files "
        "that it lists"
    )


def check_selection(split: CheckedSplit, rows: npt.NDArray[np.int64], whole: Batch) -> None:
    """Raises StageError if ``take`` of every second sample gives others than these samples.

    Arrays of another width are not compared: a split may pad the samples of each batch together.
    """
    if len(rows) < 2:
        return
    part = split.take(rows[1::2])
    for some, all_arrays in ((part.inputs, whole.inputs), (part.targets, whole.targets)):
        for key, array in some.items():
            expected = all_arrays[key][1::2]
            is_comparable = array.shape == expected.shape
            if is_comparable and not content.has_same_content(array, expected):
                raise StageError(
                    f"{split.where}.take gives other samples than it is asked for: {key!r} of the "
                    f"samples 1, 3, 5, ... differs from what they are among all; return "
                    "array[indices], in the order of the indices"
                )


def are_same_arrays(one: Arrays, two: Arrays) -> bool:
    """Whether all arrays are equal byte for byte; strings and other objects count by their
    content."""
    return one.keys() == two.keys() and all(
        content.has_same_content(one[name], two[name]) for name in one
    )


def check_views(task: Task, split: CheckedSplit) -> None:
    """Raises StageError unless augmented inputs are as declared and depend on the generator
    alone."""
    recorded, where = make_first_view(task, split, view=0), format_place(task, "augment")
    first = recorded.inputs
    check_inputs(task, where, first)
    check_integers(task, where, first)
    if not are_same_arrays(first, make_first_view(task, split, view=0).inputs):
        raise StageError(
            f"{where} gives different views for equal generators; it must draw from `generator` "
            "alone"
        )
    plain = preprocess.apply(task.preprocess, split.take(recorded.indices).inputs)
    other = make_first_view(task, split, view=1).inputs
    if are_same_arrays(first, other) and not are_same_arrays(first, plain):
        raise StageError(
            f"{where} changes the inputs but gives the same view for different generators; it must "
            "draw from `generator`, and what is done to every sample alike belongs in `preprocess`"
        )


def check_inputs(task: Task, where: str, inputs: Arrays) -> None:
    """Raises StageError unless names, dtypes and shapes after preprocessing are as declared."""
    if set(inputs) != set(task.inputs):
        raise StageError(
            f"{where} gives the inputs {sorted(inputs)}, the task declares {sorted(task.inputs)}"
        )
    for name, tensor in task.inputs.items():
        array = inputs[name]
        spec = replace(tensor, dtype=np.dtype(tensor.dtype).name)
        if find_mismatch(spec, array.shape, array.dtype, labels.list_sample_ranges(task)):
            raise StageError(
                f"{where} gives {name!r} as {array.dtype} {array.shape} after preprocessing, the "
                f"task declares {spec.dtype} {tensor.axes} with {dict(task.ranges)}; return it "
                "so, or let a step in `preprocess` make it so"
            )
