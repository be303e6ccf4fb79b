"""Scores of several labels and of positions against numbers worked by hand, and against scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score

from attar.models.scores import (
    compute_average_precision,
    compute_f1,
    compute_mean_ap,
    compute_mean_iou,
    compute_share,
    count_decisions,
    count_hits,
    count_overlaps,
    join_labels,
)

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


def at_positions(*classes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Logits of one sample whose likeliest classes are these."""
    return np.eye(3)[list(classes)][None]


def test_hits_of_positions_leave_out_what_is_ignored() -> None:
    # of four positions one is ignored, and of the others two are right
    logits, labels = at_positions(0, 1, 2, 2), np.array([[0, 1, 0, 255]])
    assert count_hits(logits, labels, 255).tolist() == [[2, 3]]
    assert count_hits(logits.reshape(1, 2, 2, 3), labels.reshape(1, 2, 2), 255).tolist() == [[2, 3]]
    assert compute_share(np.array([[2.0, 3], [1, 1]])) == 3 / 4


def test_intersection_over_union_leaves_out_what_is_ignored() -> None:
    # class 0: predicted {0, 1}, actual {0, 2}: 1 of 3; class 1: nothing of one; class 2: 1 of 2; position 4 is ignored
    logits, labels = at_positions(0, 0, 2, 2, 1), np.array([[0, 1, 0, 2, 255]])
    counted = count_overlaps(logits, labels, 255)
    assert counted.tolist() == [[1, 0, 1, 3, 1, 2]]
    assert compute_mean_iou(counted) == pytest.approx((1 / 3 + 0 + 1 / 2) / 3)
    assert compute_mean_iou(count_overlaps(at_positions(0, 0), np.array([[0, 0]]))) == 1  # of the only class that is there


@given(seed=st.integers(0, 2**32 - 1), samples=st.integers(1, 5))
def test_mean_iou_is_scikit_learn_s_jaccard_score(seed: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((samples, 4, 5, 3)), rng.integers(0, 3, (samples, 4, 5))
    labels[rng.random(labels.shape) < 0.3] = 255
    labels[0, 0, 0] = 0
    known = labels != 255
    expected = jaccard_score(labels[known], logits.argmax(-1)[known], average="macro")
    assert compute_mean_iou(count_overlaps(logits, labels, 255)) == pytest.approx(expected)
    assert compute_share(count_hits(logits, labels, 255)) == pytest.approx((labels == logits.argmax(-1))[known].mean())
