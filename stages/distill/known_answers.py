"""The teacher's answers to an output, where they count, and the student's output there.

What counts is decided on the host, from what is stored and from the labels: to count on a GPU the
places where a mask is true, the host would wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from attar.models.mixing import SHARE
from attar.models.task import CLASSIFYING, Array, Output
from attar.models.views import ViewBatch
from attar.stages.learning.lesson import Lesson, list_places, select_places
from attar.stages.learning.objective import Parts, convert_target


def read_answers(name: str, output: Output, stored: Array, batch: ViewBatch) -> Parts:
    """Return the teacher's answers where they count, and the labels there.

    That is not the padding of ``Rows``, which the teacher did not answer, and not what the labels
    ignore. Samples without labels, which come last, ignore nothing. Where not all counts, logits
    become ``[R, classes]``, values ``[R]``.
    """
    labels = None
    if output.target is not None and batch.targets and SHARE not in batch.targets:
        labels = convert_target(output, batch.targets[output.target])
        labels = labels[tuple(slice(size) for size in stored.shape[: labels.ndim])]
    known = find_known(output, stored, labels)
    if known is None:
        return name_answers(name, stored, labels)
    if labels is not None:
        labels = labels[known[: len(labels)]]
    return name_answers(name, stored[known], labels, list_places(known))


def find_known(output: Output, stored: Array, labels: Array | None) -> npt.NDArray[np.bool_] | None:
    """Return where the answers and the labels count; None if all do."""
    if output.ignore is None and all(isinstance(axis, int) for axis in output.axes[1:]):
        return None
    known: npt.NDArray[np.bool_] = ~np.isnan(np.asarray(stored, np.float32))
    if output.kind in CLASSIFYING:
        known = known[..., 0]
    if output.ignore is None:
        return None if known.all() else known
    if labels is not None:
        known[: len(labels)] &= labels != output.ignore
    return known


def name_answers(
    name: str, answers: Array, labels: Array | None, places: Array | None = None
) -> Parts:
    parts: Parts = {("answers", name): answers}
    if labels is not None:
        parts["answer labels", name] = labels
    if places is not None:
        parts["answer places", name] = places
    return parts


def select_answered(name: str, student: Tensor, lesson: Lesson[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the student's and the teacher's output where they count."""
    answers, places = lesson.parts["answers", name], lesson.find("answer places", name)
    return select_known(student, answers.shape, places), answers


def select_features(name: str, features: Tensor, lesson: Lesson[Tensor]) -> Tensor:
    """Return the features of the rows of logits that ``select_answered`` returns.

    ``features`` have the axes of the output, and their own number of entries in the last one.
    """
    answers, places = lesson.parts["answers", name], lesson.find("answer places", name)
    return select_known(features, answers.shape[:-1], places)


def select_known(values: Tensor, shape: Sequence[int], places: Tensor | None) -> Tensor:
    """Return the values at the places that count; if all do, those that the teacher answered, whose
    padding may be shorter than the network's: the first ``shape``."""
    if places is None:
        return values[tuple(slice(size) for size in shape)]
    return select_places(values, places)


def select_labelled(
    name: str, student: Tensor, lesson: Lesson[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return both outputs where they count and have labels, and these labels."""
    labels = lesson.find("answer labels", name)
    count = lesson.labelled if labels is None else len(labels)
    got, answers = select_answered(name, student, lesson)
    return got[:count], answers[:count], labels
