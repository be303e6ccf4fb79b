"""Calls the methods of a task on trial: a message names the method, and the line of the user's own
that broke."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models import views
from attar.models.sample_order import shuffle_samples
from attar.models.task import Batch, InMemory, Split, SplitName, Task
from attar.pipeline.core import error_context as blame
from attar.pipeline.core.errors import AttarError, StageError


def format_place(task: Task, attribute: str) -> str:
    return f"{type(task).__name__}.{attribute}"


@contextmanager
def report_errors_of(where: str) -> Iterator[None]:
    """What is raised inside leaves as a StageError that names the method and the line; messages of
    attar pass as they are."""
    try:
        yield
    except AttarError:
        raise
    except Exception as error:
        raise StageError(
            f"{where} raised {type(error).__name__}: {error}{blame.locate_user_code(error)}"
        ) from error


@dataclass(frozen=True)
class CheckedSplit(Split):
    """A split as the task gave it, whose every batch is looked at."""

    where: str
    split: Split

    def __len__(self) -> int:
        with report_errors_of(f"the length of {self.where}"):
            return len(self.split)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        where = f"{self.where}.take"
        with report_errors_of(where):
            made: Any = self.split.take(indices)
        if not isinstance(made, Batch):
            raise StageError(
                f"{where} must return an attar.Batch(inputs, targets), got {reprlib.repr(made)}"
            )
        check_arrays(f"{where}: inputs", made.inputs, len(indices))
        check_arrays(f"{where}: targets", made.targets, len(indices))
        return made


def open_split(task: Task, name: SplitName) -> CheckedSplit:
    """What the task calls its split of this name. Raises StageError where it is none."""
    where = format_place(task, f"split({name!r})")
    with report_errors_of(where):
        made: Any = task.split(name)
    if not isinstance(made, Split):
        raise StageError(
            f"{where} must return an attar.Split, such as attar.InMemory(inputs, targets), got "
            f"{type(made).__name__} {reprlib.repr(made)}"
        )
    if isinstance(made, InMemory):
        check_whole(where, made)
    return CheckedSplit(where, made)


def check_whole(where: str, split: InMemory) -> None:
    """All arrays have a row for every sample: indexing would cut the longer ones in silence."""
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
    """Named numpy arrays, with a row a sample."""
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


def make_first_view(task: Task, split: Split, view: int | None = None) -> views.ViewBatch:
    """The first chunk, as a network sees it: augmented where a view is named, and preprocessed."""
    if view is not None:
        check_augment(task, split, view)
    with report_errors_of(format_place(task, "preprocess")):
        return views.make_chunk(task, split, 0, view=view)


def check_augment(task: Task, split: Split, view: int) -> None:
    """It returns the names and the number of samples that it was given."""
    where, given = (
        format_place(task, "augment"),
        split.take(shuffle_samples(len(split))[: views.CHUNK]).inputs,
    )
    samples = len(next(iter(given.values())))
    with report_errors_of(where):
        made: Any = task.augment(given, np.random.default_rng((0, view, 0)))
    check_arrays(f"{where}: what it returns", made, samples)
    if set(made) != set(given):
        raise StageError(
            f"{where} must return the inputs {sorted(given)} that it was given, got {sorted(made)}"
        )
