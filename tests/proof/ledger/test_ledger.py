"""The ledger of tasks that are not plain classification: several outputs, numbers, one label a token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from attar.models.task import Arrays, Output, Split, SplitName, Task
from attar.pipeline.core.errors import StageError
from attar.proof.comparison.hop_comparer import HopComparer, find_labels
from attar.proof.comparison.hop_outputs import HopAnswers, HopOutputs, score_outputs
from attar.proof.hop import HopName
from attar.proof.ledger.ledger_json import answers_to_json, hop_from_json


class Height(Task):
    """A number and, beside it, the class of two tokens; the score is R squared, from sums that no single sample has."""

    outputs = {"height": Output(("batch", 1), "values"), "tags": Output(("batch", 2, 3), target="tag")}
    classes = ("noun", "verb", "other")

    def data(self) -> list[Path | str]:
        return []

    def split(self, name: SplitName) -> Split:
        raise NotImplementedError("only its outputs are asked for here")

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        error = np.asarray(outputs["height"], np.float64) - np.asarray(targets["height"], np.float64)
        return np.concatenate([error**2, np.asarray(targets["height"], np.float64) ** 2], 1)

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        error, deviation = statistics.sum(0)
        return float(1 - error / deviation)


TASK = Height()
TARGETS = {"height": np.array([[1.0], [-1], [2]]), "tag": np.zeros((3, 2), np.int64)}
TAGS = np.arange(18, dtype=np.float32).reshape(3, 2, 3)


def of(heights: list[float], tags: npt.NDArray[np.float32] = TAGS, hop: HopName = "student") -> HopOutputs:
    answers = HopAnswers({"height": np.array(heights)[:, None], "tags": tags})
    return score_outputs(TASK, hop, answers, TARGETS)


def test_a_score_is_aggregated_from_the_statistics_of_all_samples() -> None:
    measured = {"teacher": of([1, -1, 2], hop="teacher"), "student": of([1, -1, 1], TAGS[..., ::-1])}
    found = HopComparer(TASK, find_labels(TASK, TARGETS)).build_hops(measured)["student"]
    assert found.get_score() == pytest.approx(1 - 1 / 6)  # squared errors 0, 0, 1 of squared deviations 1, 1, 4
    assert found.get_value("teacher", "score_drop") == pytest.approx(1 / 6)
    assert found.get_value("teacher", "correlation") == pytest.approx(-1)  # the worse output: its logits are turned round
    assert found.get_value("teacher", "agreement") == 0
    assert found.worst_classes == {}  # a sample has two labels
    assert not found.has_baseline("previous")


def test_a_subset_has_a_score_of_its_own() -> None:
    measured = {"teacher": of([1, -1, 2], hop="teacher"), "student": of([1, -1, 1])}
    subset = {"outer": np.array([True, False, True])}
    found = HopComparer(TASK, find_labels(TASK, TARGETS), subsets=subset).build_hops(measured)
    assert {name: hop.subset_scores["outer"].value for name, hop in found.items()} == {
        "teacher": 1,
        "student": pytest.approx(1 - 1 / 5),  # squared errors 0, 1 of squared deviations 1, 4
    }
    score = found["student"].subset_scores["outer"]
    assert (score.sample_size, score.hop) == (2, "student")
    assert score.bounds is not None
    assert score.bounds.low <= 0.8 <= score.bounds.high
    row = {"status": "measured", **answers_to_json(found["student"])}
    assert hop_from_json(row, "student", 3).subset_scores == found["student"].subset_scores


def test_what_is_not_finite_is_counted_once_a_sample_and_read_as_zero() -> None:
    tags = TAGS.copy()
    tags[0, 0, 0], tags[0, 1, 1] = np.nan, np.inf
    found = of([np.nan, -1, -np.inf], tags)
    assert found.nonfinite_samples == 2
    assert found.outputs["height"].ravel().tolist() == [0, -1, 0]
    assert not found.is_constant


def test_one_constant_output_is_enough() -> None:
    assert of([3, 3, 3]).is_constant
    assert of([1, 2, 3], np.broadcast_to(TAGS[:1], TAGS.shape)).is_constant


def test_a_score_must_be_one_finite_row_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (np.zeros(3), np.zeros((2, 1)), np.full((3, 1), np.nan)):
        monkeypatch.setattr(Height, "score", lambda self, outputs, targets, wrong=wrong: wrong)
        with pytest.raises(StageError, match=r"\[samples, k\]"):
            of([1, 2, 3])
