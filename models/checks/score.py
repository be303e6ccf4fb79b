"""Checks of the score of a task: its statistics, the one number, and the subsets of the samples."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.checks.calls import CheckedSplit, format_place, report_errors_of
from attar.models.checks.first_view import make_first_view
from attar.models.task import Array, Arrays, Task
from attar.models.tensors import TensorSpec, describe_array
from attar.pipeline.core import error_context as blame
from attar.pipeline.core.errors import StageError

SCORED = 64
"""Number of samples that are scored."""


def check_score(task: Task, split: CheckedSplit) -> None:
    """Raises StageError if ``score`` fails for random outputs. Skipped if only the task's own
    ``answer`` knows their shapes."""
    few = make_first_view(task, split).take(np.arange(min(SCORED, len(split))))
    outputs = random_outputs(task, few.inputs)
    if outputs is None:
        return
    where, samples = format_place(task, "score"), len(few.indices)
    try:
        with np.errstate(all="ignore"):
            statistics: Any = task.score(outputs, few.targets)
    except Exception as error:
        shapes = {name: array.shape for name, array in outputs.items()}
        raise StageError(
            f"{where} cannot score outputs of shapes {shapes}: {type(error).__name__}: "
            f"{error}{blame.locate_user_code(error)}"
        ) from error
    if not are_statistics(statistics, samples):
        is_array = isinstance(statistics, np.ndarray)
        got = describe_array(statistics) if is_array else repr(statistics)
        raise StageError(
            f"{where} must return floating-point statistics [samples, k], here [{samples}, k], got "
            f"{got}; for accuracy: (outputs[name].argmax(1) == targets[name])[:, "
            "None].astype(float)"
        )
    check_aggregate(task, statistics)


def check_subsets(task: Task, samples: int) -> None:
    """Raises StageError for a subset that does not mark each of the test samples, and for one of
    fewer than two, which has no bounds."""
    where = format_place(task, "mark_subsets")
    with report_errors_of(f"{where}()"):
        marked: dict[str, Any] = dict(task.mark_subsets())
    for name, rows in marked.items():
        is_mask = isinstance(rows, np.ndarray) and rows.dtype == bool and rows.shape == (samples,)
        if not is_mask or rows.sum() < 2:
            raise StageError(
                f"{where}() must mark which of the {samples} test samples are in {name!r}, at "
                f"least two of them, by a boolean array [{samples}], got {reprlib.repr(rows)}"
            )


def are_statistics(value: Any, samples: int) -> bool:
    """Whether a value is floating-point ``[samples, k]``, with k of at least 1."""
    if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.floating):
        return False
    return value.ndim == 2 and value.shape[0] == samples and value.shape[1] > 0


def check_aggregate(task: Task, statistics: npt.NDArray[np.float64]) -> None:
    where = format_place(task, "aggregate")
    with report_errors_of(where), np.errstate(all="ignore"):
        score: Any = task.aggregate(statistics)
    if not isinstance(score, float | int):
        raise StageError(
            f"{where} must return one number, the score, got {reprlib.repr(score)}; wrap it in "
            "float(...)"
        )


def random_outputs(task: Task, inputs: Arrays) -> dict[str, Array] | None:
    """Return random outputs for these inputs, or None if their shapes depend on the network."""
    sizes: dict[str, int] = {}
    for name, tensor in task.inputs.items():
        sizes |= {str(axis): n for axis, n in zip(tensor.axes, inputs[name].shape, strict=True)}
    axes = {axis for output in task.outputs.values() for axis in output.axes}
    has_unknown = any(isinstance(axis, str) and axis not in sizes for axis in axes)
    if type(task).answer is not Task.answer or has_unknown:
        return None
    generator = np.random.default_rng(0)
    outputs: dict[str, Array] = {}
    for name, output in task.outputs.items():
        shape = TensorSpec("float32", output.axes).shape(sizes)
        outputs[name] = generator.standard_normal(shape).astype(np.float32)
    return outputs
