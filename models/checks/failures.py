"""Failures: which sample could not be prepared, where many are prepared at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from attar.models import preprocess
from attar.models.checks.calls import CheckedSplit, format_place, report_errors_of
from attar.models.task import Arrays, Split, Task
from attar.pipeline.core.errors import AttarError, StageError


@contextmanager
def name_failed_sample(
    task: Task, split: Split, indices: npt.NDArray[np.int64], where: str
) -> Iterator[None]:
    """Turn an error in preparing these samples into a StageError that names the sample.

    If none of them fails alone, the error names all of them.
    """
    try:
        with report_errors_of(f"preparing {where}"):
            yield
    except AttarError as error:
        found = find_failed_sample(task, split, indices)
        if found is None:
            raise StageError(f"{describe_samples(split, indices, where)}: {error}") from error
        raise name_reason(split, where, *found) from error


@contextmanager
def name_damaged_sample(
    task: Task, split: CheckedSplit, indices: npt.NDArray[np.int64]
) -> Iterator[None]:
    """Name the sample that cannot be read and preprocessed, if others of these can: a mistake of
    the task, with which all fail, is of no sample."""
    try:
        yield
    except AttarError as error:
        found = find_failed_sample(task, split, indices)
        if found is None or all(explain_failure(task, split, i) for i in indices.tolist()):
            raise
        raise name_reason(split, split.where, *found) from error


def name_reason(split: Split, where: str, index: int, reason: AttarError) -> StageError:
    named = " ".join([f"sample {index} of {where}", *name_sample(split, index)])
    return StageError(f"{named}: {reason}")


def describe_samples(split: Split, indices: npt.NDArray[np.int64], where: str) -> str:
    """Return which samples these are, for a message: their number, the first, and the last."""
    first, last = (" ".join([str(i), *name_sample(split, i)]) for i in indices[[0, -1]].tolist())
    return f"{len(indices)} samples of {where}, from {first} to {last}"


def find_failed_sample(
    task: Task, split: Split, indices: npt.NDArray[np.int64]
) -> tuple[int, AttarError] | None:
    """Return the first sample that cannot be read and preprocessed alone, and why."""
    for index in indices.tolist():
        if reason := explain_failure(task, split, index):
            return index, reason
    return None


def explain_failure(task: Task, split: Split, index: int) -> AttarError | None:
    """Return why a sample cannot be read and preprocessed alone; None if it can."""
    try:
        with report_errors_of("reading it"):
            raw = split.take(np.array([index])).inputs
        with report_errors_of(format_place(task, "preprocess")):
            preprocess.apply(task.preprocess, raw)
    except AttarError as error:
        return error
    return None


def name_sample(split: Split, index: int) -> Iterator[str]:
    """Yield what the split calls a sample, in brackets, unless it has no name for it."""
    with report_errors_of("the name of a sample"):
        name = split.name_sample(index)
    if name:
        yield f"({name})"


def blame_inputs(inputs: Arrays) -> str:
    """Return what is to be done about an answer that is NaN: correct the sample's inputs, where one
    of them is no number, else the network."""
    unclean = [name for name, array in inputs.items() if not np.isfinite(array).all()]
    if unclean:
        return f", whose input {unclean[0]!r} holds NaN or infinity: correct the data"
    return ", whose inputs are all finite: train the teacher again, or scale what it reads"
