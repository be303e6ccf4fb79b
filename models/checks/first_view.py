"""The first chunk of a split as a network reads it: where most mistakes of a task show."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models import preprocess, views
from attar.models.checks.calls import CheckedSplit, check_arrays, format_place, report_errors_of
from attar.models.checks.failures import name_damaged_sample
from attar.models.task import Arrays, Task
from attar.pipeline.core.errors import StageError


def make_first_view(task: Task, split: CheckedSplit, view: int | None = None) -> views.ViewBatch:
    """Return the first chunk as a network reads it: preprocessed, and augmented if a view is given.
    Raises StageError that names the sample that cannot be prepared."""
    indices = views.list_chunk(split, 0, view)
    if view is not None:
        check_augment(task, decode_samples(task, split, indices), view)
    with (
        name_damaged_sample(task, split, indices),
        report_errors_of(format_place(task, "preprocess")),
    ):
        return views.make_chunk(task, split, 0, view=view)


def decode_samples(task: Task, split: CheckedSplit, indices: npt.NDArray[np.int64]) -> Arrays:
    """Return the inputs of these samples as ``augment`` gets them."""
    with (
        name_damaged_sample(task, split, indices),
        report_errors_of(format_place(task, "preprocess")),
    ):
        return preprocess.decode(task.preprocess, split.take(indices).inputs)


def check_augment(task: Task, raw: Arrays, view: int) -> None:
    """Raises StageError unless ``augment`` returns the inputs and the number of samples that it was
    given."""
    where = format_place(task, "augment")
    samples = len(next(iter(raw.values())))
    with report_errors_of(where):
        view_inputs: Any = task.augment(raw, np.random.default_rng((0, view, 0)))
    check_arrays(f"{where}: what it returns", view_inputs, samples)
    if set(view_inputs) != set(raw):
        raise StageError(
            f"{where} must return the inputs {sorted(raw)} that it was given, got "
            f"{sorted(view_inputs)}"
        )
