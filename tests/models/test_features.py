"""Features beside answers: a task's own ``answer`` sees none of them, and each sample has one row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from attar.models.features import answer_with_features
from attar.models.task import Array, Arrays, Predict
from attar.pipeline.core.errors import StageError
from tests.support.tasks.ring_task import Ring

POINTS = {"point": np.arange(6, dtype=np.float32).reshape(3, 2)}


def graph(inputs: Arrays) -> dict[str, Array]:
    point = inputs["point"]
    return {"logits": point, "layer.features": np.asarray(point, np.float32) * 2, "other.features": point}


class SingleSamples(Ring):
    """Asks for each sample alone, and looks at all that it gets."""

    def answer(self, graphs: Mapping[str, Predict], inputs: Arrays) -> dict[str, Array]:
        parts = [graphs["model"]({"point": row[None]}) for row in np.asarray(inputs["point"])]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Sorted(Ring):
    """Asks for the samples in another order, and restores that of its answers."""

    def answer(self, graphs: Mapping[str, Predict], inputs: Arrays) -> dict[str, Array]:
        order = np.argsort(-np.asarray(inputs["point"], np.float32)[:, 0])
        answer = graphs["model"]({"point": inputs["point"][order]})
        return {name: array[np.argsort(order)] for name, array in answer.items()}


class Twice(Ring):
    def answer(self, graphs: Mapping[str, Predict], inputs: Arrays) -> dict[str, Array]:
        graphs["model"](inputs)
        return graphs["model"](inputs)


def test_calls_of_parts_are_joined_and_other_layers_left_alone() -> None:
    answer = answer_with_features(SingleSamples(), {"model": graph}, POINTS, ["layer"])
    np.testing.assert_array_equal(answer["layer.features"], 2 * POINTS["point"])
    assert answer["logits"].shape == (3, 2)


def test_an_answer_that_asks_twice_has_no_row_a_sample() -> None:
    with pytest.raises(StageError, match="6 rows of 'layer' to answer 3 samples"):
        answer_with_features(Twice(), {"model": graph}, POINTS, ["layer"])


def test_an_answer_that_asks_in_another_order_is_refused() -> None:
    """Each sample would be learned with the features of another."""
    with pytest.raises(StageError, match="other rows of 'point' than the samples, or another order"):
        answer_with_features(Sorted(), {"model": graph}, POINTS, ["layer"])


def test_one_call_about_all_samples_is_neither_copied_nor_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the usual one, and a batch of images is 77 MB."""
    monkeypatch.delattr(np, "array_equal")
    made = graph(POINTS)
    answer = answer_with_features(Ring(), {"model": lambda inputs: made}, POINTS, ["layer"])
    assert answer["layer.features"] is made["layer.features"]


def test_without_layers_nothing_is_taken() -> None:
    assert answer_with_features(Twice(), {"model": graph}, POINTS, []).keys() == graph(POINTS).keys()
