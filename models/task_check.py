"""Looks at a task before anything is spent on it: what would otherwise train for an hour and mean nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from attar.models import views
from attar.models.task import Array, Arrays, Batch, Split, SplitName, Task, Tensor
from attar.pipeline.errors import StageError

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
AT_ONCE = 4096  # samples in memory at once


def check(task: Task) -> None:
    """Raises StageError for an empty split, wrong inputs, labels outside the classes, and a test split that was trained on."""
    splits = {name: task.split(name) for name in SPLITS}
    for name, split in splits.items():
        if len(split) == 0:
            raise StageError(f"the {name} split of {type(task).__name__} is empty; all of {', '.join(SPLITS)} need samples")
        check_inputs(task, name, views.chunk(task, split, 0).inputs)
        for batch in batches(split):
            check_labels(task, name, batch)
    check_inputs(task, "train (augmented)", views.chunk(task, splits["train"], 0, view=0).inputs)
    check_overlap(splits)


def batches(split: Split) -> Iterator[Batch]:
    for start in range(0, len(split), AT_ONCE):
        yield split.take(np.arange(start, min(start + AT_ONCE, len(split))))


def check_inputs(task: Task, split: str, inputs: Arrays) -> None:
    """Names, dtypes and shapes after preprocessing, against what the task declares."""
    if set(inputs) != set(task.inputs):
        raise StageError(f"the {split} split gives the inputs {sorted(inputs)}, the task declares {sorted(task.inputs)}")
    for name, tensor in task.inputs.items():
        array = inputs[name]
        if array.dtype != np.dtype(tensor.dtype) or not fits(task, tensor, array):
            raise StageError(
                f"the {split} split gives {name!r} as {array.dtype} {array.shape} after preprocessing, "
                f"the task declares {tensor.dtype} {tensor.axes} with {dict(task.ranges)}"
            )


def fits(task: Task, tensor: Tensor, array: Array) -> bool:
    if array.ndim != len(tensor.axes):
        return False
    for axis, size in zip(tensor.axes, array.shape, strict=True):
        if isinstance(axis, int) and size != axis:
            return False
        if isinstance(axis, str) and axis != "batch":
            low, high = task.ranges[axis]
            if not low <= size <= high:
                return False
    return True


def check_labels(task: Task, split: str, batch: Batch) -> None:
    """Class indices lie in ``[0, classes)``, numbers are finite."""
    for name, output in task.outputs.items():
        if output.target is None:
            continue
        if output.target not in batch.targets:
            raise StageError(f"the {split} split has no target {output.target!r}, which the output {name!r} is trained on")
        target = batch.targets[output.target]
        if output.kind == "values":
            if not np.isfinite(np.asarray(target, np.float64)).all():
                raise StageError(f"the target {output.target!r} of the {split} split holds NaN or infinity")
            continue
        check_classes(split, np.asarray(target, np.int64), output.axes[-1])


def check_classes(split: str, labels: npt.NDArray[np.int64], classes: int | str) -> None:
    if isinstance(classes, str):  # a dynamic number of classes: nothing is promised
        return
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        found = sorted(set(wrong.tolist()))[:5]
        last = classes - 1
        raise StageError(f"{len(wrong)} labels of the {split} split are outside the {classes} classes (0 to {last}): {found}")


def check_overlap(splits: dict[SplitName, Split]) -> None:
    """No sample of the test split may be one that was trained on, or chosen by."""
    test = fingerprints(splits["test"])
    for name in ("train", "validation"):
        shared = len(test & fingerprints(splits[name]))
        if shared:
            raise StageError(
                f"{shared} of {len(test)} different test samples are in the {name} split too, byte for byte; "
                "a score on them proves nothing: split again"
            )


def fingerprints(split: Split) -> set[bytes]:
    return {digest for batch in batches(split) for digest in digests(batch.inputs)}


def digests(inputs: Arrays) -> Iterator[bytes]:
    """One a sample, over the bytes of all its raw inputs."""
    columns = [np.ascontiguousarray(inputs[name]) for name in sorted(inputs)]
    for row in range(len(columns[0])):
        yield hashlib.blake2b(b"".join(column[row].tobytes() for column in columns), digest_size=16).digest()
