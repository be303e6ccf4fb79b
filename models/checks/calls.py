"""Calls the methods of a task and reports their errors: a message names the method, and the line of
the user's code that failed."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Batch, InMemory, Split, SplitName, Task
from attar.pipeline.core import error_context as blame
from attar.pipeline.core.errors import AttarError, StageError


def format_place(task: Task, attribute: str) -> str:
    return f"{type(task).__name__}.{attribute}"


@contextmanager
def report_errors_of(where: str) -> Iterator[None]:
    """Turn an error into a StageError that names the method and the line. Errors of attar pass
    unchanged."""
    try:
        yield
    except AttarError:
        raise
    except Exception as error:
        raise StageError(describe_error(where, error)) from error


def describe_error(where: str, error: Exception) -> str:
    return f"{where} raised {type(error).__name__}: {error}{blame.locate_user_code(error)}"


@dataclass(frozen=True)
class CheckedSplit(Split):
    """A split of the task. Every batch is checked."""

    where: str
    split: Split

    def __len__(self) -> int:
        with report_errors_of(f"the length of {self.where}"):
            return len(self.split)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        where = f"{self.where}.take"
        with report_errors_of(where):
            try:
                batch: Any = self.split.take(indices)
            except IndexError as error:
                raise StageError(
                    f"{describe_error(where, error)}; the length of {self.where} is {len(self)}, "
                    "which must be the number of samples that there are"
                ) from error
        if not isinstance(batch, Batch):
            raise StageError(
                f"{where} must return an attar.Batch(inputs, targets), got {reprlib.repr(batch)}"
            )
        check_arrays(f"{where}: inputs", batch.inputs, len(indices))
        check_arrays(f"{where}: targets", batch.targets, len(indices))
        return batch

    def name_sample(self, index: int) -> str:
        return self.split.name_sample(index)


def open_split(task: Task, name: SplitName) -> CheckedSplit:
    """Return the task's split of this name. Raises StageError if it is no valid split."""
    where = format_place(task, f"split({name!r})")
    with report_errors_of(where):
        split: Any = task.split(name)
    if not isinstance(split, Split):
        raise StageError(
            f"{where} must return an attar.Split, such as attar.InMemory(inputs, targets), got "
            f"{type(split).__name__} {reprlib.repr(split)}"
        )
    if isinstance(split, InMemory):
        check_whole(where, split)
    return CheckedSplit(where, split)


def check_whole(where: str, split: InMemory) -> None:
    """Raises StageError unless all arrays have a row for every sample: indexing would silently cut
    the longer ones."""
    inputs: Any = split.inputs
    if not isinstance(inputs, Mapping) or not inputs:
        raise StageError(
            f"{where}: inputs must be a dict of numpy arrays by name, got {reprlib.repr(inputs)}"
        )
    first = next(iter(inputs.values()))
    samples = len(first) if isinstance(first, np.ndarray) and first.ndim else 0
    check_arrays(f"{where}: inputs", split.inputs, samples)
    check_arrays(f"{where}: targets", split.targets, samples)


def check_arrays(where: str, arrays: Any, samples: int) -> None:
    """Raises StageError unless these are named numpy arrays with a row for every sample."""
    if not isinstance(arrays, Mapping):
        raise StageError(
            f"{where} must be a dict of numpy arrays by name, got {reprlib.repr(arrays)}"
        )
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise StageError(
                f"{where}[{name!r}] must be a numpy array, got {type(array).__name__}; np.asarray "
                "makes one"
            )
        if array.ndim == 0 or len(array) != samples:
            raise StageError(
                f"{where}[{name!r}] must have a row for each of {samples} samples, got the shape "
                f"{array.shape}"
            )
