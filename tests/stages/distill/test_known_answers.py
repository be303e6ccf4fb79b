"""Where the teacher's answers count, and which labels belong to them."""

from __future__ import annotations

import numpy as np
import pytest

from attar.models.task import Output
from attar.models.views import ViewBatch
from attar.stages.distill.known_answers import read_answers

OUTPUT = Output(("batch", "length", 3), target="label")
LABELS = np.arange(8).reshape(2, 4) % 3


@pytest.mark.parametrize("lengths", [(2, 2), (2, 1)])
def test_labels_are_those_of_the_answers_also_if_the_teacher_answered_fewer_positions(lengths: tuple[int, int]) -> None:
    """Labels of a batch are padded for the batch, stored answers for the longest among them."""
    stored = np.zeros((2, 2, 3), np.float32)
    for row, length in enumerate(lengths):
        stored[row, length:] = np.nan
    parts = read_answers("y", OUTPUT, stored, ViewBatch(np.arange(2), {}, {"label": LABELS}))
    answers, labels = parts["answers", "y"], parts["answer labels", "y"]
    assert answers.shape == (*labels.shape, 3)
    expected = [LABELS[row, place] for row, length in enumerate(lengths) for place in range(length)]
    assert labels.ravel().tolist() == expected
