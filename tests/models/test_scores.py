"""Scores of several labels and of positions against numbers worked by hand, and against scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from attar.models.scores import compute_average_precision, compute_f1, compute_mean_ap, count_decisions, join_labels

LOGITS = np.array([[2.0, -1.0, 0.5], [-3.0, 0.0, 1.0]])
LABELS = np.array([[1, 1, 0], [0, 1, 1]])


def test_decisions_are_counted_for_each_sample() -> None:
    # predicted: [1, 0, 1] and [0, 0, 1], since a logit of 0 is a no
    assert count_decisions(LOGITS, LABELS).tolist() == [[1, 1, 1], [1, 0, 1]]


def test_micro_f1_is_of_all_decisions_together() -> None:
    assert compute_f1(count_decisions(LOGITS, LABELS)) == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert compute_f1(np.zeros((4, 3))) == 0


def test_average_precision_is_the_mean_precision_at_the_positives() -> None:
    # ranked: 1, 0, 1, 0: the positives stand at place 1 and 3 with the precisions 1/1 and 2/3
    assert compute_average_precision(np.array([0.2, 0.9, 0.5, 0.7]), np.array([0.0, 1, 1, 0])) == pytest.approx((1 + 2 / 3) / 2)
    # of equal scores none is before the other: one of three is right
    assert compute_average_precision(np.zeros(3), np.array([0.0, 1, 0])) == pytest.approx(1 / 3)


def test_mean_average_precision_leaves_out_a_label_that_no_sample_has() -> None:
    logits, labels = np.array([[1.0, 5.0], [2.0, 6.0]]), np.array([[1, 0], [0, 0]])
    assert compute_mean_ap(join_labels(logits, labels)) == pytest.approx(1 / 2)
    assert math.isnan(compute_mean_ap(join_labels(logits, np.zeros((2, 2)))))


@given(seed=st.integers(0, 2**32 - 1), samples=st.integers(2, 30), labels=st.integers(2, 4))
def test_they_are_scikit_learn_s(seed: int, samples: int, labels: int) -> None:
    rng = np.random.default_rng(seed)
    logits, truth = rng.integers(-3, 4, (samples, labels)).astype(np.float64), rng.integers(0, 2, (samples, labels))
    truth[0] = 1  # scikit-learn warns of a label that no sample has
    f1 = f1_score(truth, logits > 0, average="micro", zero_division=0)
    assert compute_f1(count_decisions(logits, truth)) == pytest.approx(f1)
    ap = np.mean([average_precision_score(truth[:, each], logits[:, each]) for each in range(labels)])
    assert compute_mean_ap(join_labels(logits, truth)) == pytest.approx(ap)
