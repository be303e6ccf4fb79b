"""What the class of a task says before any data are read: ``inputs``, ``outputs`` and
``ranges``."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from attar.models.checks.calls import format_place
from attar.models.checks.tokens import check_tokens
from attar.models.task import CLASSIFYING, Kind, Output, Task, Tensor
from attar.pipeline.core.errors import StageError, suggest_name


def check_declarations(task: Task) -> None:
    """Raises StageError for names, axes, ranges and dtypes that no batch can fit."""
    kinds = {"inputs": ("Tensor", Tensor), "outputs": ("Output", Output)}
    for attribute, (public_name, kind) in kinds.items():
        declared: Any = getattr(task, attribute, None)
        is_filled = isinstance(declared, Mapping) and len(declared) > 0
        if not is_filled or not all(isinstance(item, kind) for item in declared.values()):
            raise StageError(
                f"{format_place(task, attribute)} must name at least one attar.{public_name}, got "
                f"{reprlib.repr(declared)}"
            )
    for attribute in ("ranges", "preprocess"):
        check_mapping(task, attribute)
    for axis in task.ranges:
        check_range(task, axis)
    for attribute in kinds:
        for name, declaration in getattr(task, attribute).items():
            check_axes(task, f"{attribute}[{name!r}]", declaration.axes)
    for name, tensor in task.inputs.items():
        check_dtype(task, name, tensor)
    for name, output in task.outputs.items():
        check_output(task, name, output)
        check_embedding(task, name, output)
        check_multilabel(task, name, output)
        check_ignore(task, name, output)
        if output.kind == "tokens":
            check_tokens(task, name, output)


def check_mapping(task: Task, attribute: str) -> None:
    declared: Any = getattr(task, attribute)
    if not isinstance(declared, Mapping):
        raise StageError(
            f"{format_place(task, attribute)} must be a dictionary, {{name: ...}}, got "
            f"{reprlib.repr(declared)}"
        )


def check_range(task: Task, axis: str) -> None:
    sizes: Any = task.ranges[axis]
    least = 1 if axis == "batch" else 0  # a cache may be empty at first, a batch never is
    is_pair = isinstance(sizes, Sequence) and [type(size) for size in sizes] == [int, int]
    if not is_pair or not least <= sizes[0] <= sizes[1] or sizes[1] == 0:
        raise StageError(
            f"{format_place(task, f'ranges[{axis!r}]')} must be two integers, the smallest and the "
            f"largest promised size, {least} <= smallest <= largest and largest > 0; got "
            f"{sizes!r}"
        )


def check_axes(task: Task, where: str, axes: tuple[int | str, ...]) -> None:
    declared: Any = axes
    is_batched = isinstance(declared, tuple) and declared[:1] == ("batch",)
    if not is_batched or not all(type(axis) in (int, str) for axis in declared):
        raise StageError(
            f"{format_place(task, where)} has the axes {declared!r}; they must be a tuple of sizes "
            "and names that begins with 'batch', such as ('batch', 3, 'height')"
        )
    for axis in axes:
        if isinstance(axis, str) and axis not in task.ranges:
            raise StageError(
                f"{format_place(task, where)} has an axis {axis!r} that `ranges` does not "
                "have: add its smallest and largest size, or name one that is there; "
                f"{suggest_name(axis, task.ranges)}"
            )


def check_dtype(task: Task, name: str, tensor: Tensor) -> None:
    where = format_place(task, f"inputs[{name!r}]")
    try:
        np.dtype(tensor.dtype)
    except TypeError as error:
        raise StageError(
            f"{where} has the dtype {tensor.dtype!r}; it must be a numpy name such as float32 or "
            "int64"
        ) from error
    if tensor.is_integer and tensor.high is None:
        raise StageError(
            f"{where} holds integers; set `high` to the largest value that may occur, plus 1"
        )


def check_output(task: Task, name: str, output: Output) -> None:
    """Raises StageError unless the kind is known and the number of classes is that of their
    names."""
    where = format_place(task, f"outputs[{name!r}]")
    if output.kind not in get_args(Kind):
        raise StageError(
            f"{where} has the kind {output.kind!r}; {suggest_name(output.kind, get_args(Kind))}"
        )
    classes: Any = task.classes
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise StageError(
            f"{format_place(task, 'classes')} must be a list of names, got {reprlib.repr(classes)}"
        )
    size = output.axes[-1]
    is_named = output.kind in CLASSIFYING or output.kind == "multilabel"
    if is_named and classes and isinstance(size, int) and size != len(classes):
        raise StageError(
            f"{where} has {size} {output.kind}, {format_place(task, 'classes')} has {len(classes)} "
            "names; name all classes, or none"
        )


def check_embedding(task: Task, name: str, output: Output) -> None:
    """Raises StageError unless an embedding is one vector of fixed length for each sample, without
    a target."""
    if output.kind != "embedding":
        return
    where = format_place(task, f"outputs[{name!r}]")
    if len(output.axes) != 2 or output.axes[0] != "batch" or not isinstance(output.axes[1], int):
        raise StageError(
            f"{where} is an embedding with the axes {output.axes}; it must be one vector a sample, "
            "('batch', DIMENSIONS): pool positions inside the network, and let a student of "
            "another width end in a linear layer to the teacher's dimensions"
        )
    if output.target is not None:
        raise StageError(
            f"{where} is an embedding with the target {output.target!r}; no label says where a "
            "vector should point: remove `target` (what `score` needs is read from the targets in "
            "any case)"
        )


def check_multilabel(task: Task, name: str, output: Output) -> None:
    """Raises StageError unless a multilabel output is a fixed number of decisions a sample."""
    is_row = len(output.axes) == 2 and isinstance(output.axes[1], int) and output.axes[1] > 0
    if output.kind == "multilabel" and not is_row:
        raise StageError(
            f"{format_place(task, f'outputs[{name!r}]')} is multilabel with the axes "
            f"{output.axes}; they must be ('batch', LABELS), a fixed number of yes-or-no decisions "
            "for each sample. For one of several classes at each position use kind='logits'"
        )


def check_ignore(task: Task, name: str, output: Output) -> None:
    """Raises StageError unless the label to ignore is none of the classes, of an output that has
    classes at positions, and labels."""
    if output.ignore is None:
        return
    where, classes = format_place(task, f"outputs[{name!r}]"), output.axes[-1]
    if output.kind not in CLASSIFYING or len(output.axes) < 3 or output.target is None:
        raise StageError(
            f"{where} has ignore = {output.ignore} and is {output.kind} of {output.axes} with the "
            f"target {output.target!r}; only labels of positions can be ignored, of logits "
            "('batch', ..., classes). Samples without a label belong in transfer"
        )
    if isinstance(classes, int) and 0 <= output.ignore < classes:
        raise StageError(
            f"{where} has ignore = {output.ignore}, which is one of its {classes} classes; mark "
            f"what has no label with a number that is none, such as 255 or -1"
        )
