"""Metrics of logits at positions of which some are ignored: by hand, and what they do not depend on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.task import Kind, find_known
from attar.models.tasks.pixels import Pixels
from attar.proof.comparison.hop_comparer import HopComparer
from attar.proof.comparison.hop_outputs import HopAnswers, score_outputs
from attar.proof.estimates import metrics

METRICS = ("correlation", "correlation_per_sample", "correlation_probabilities", "kdl", "agreement", "largest_difference")


def numbers(
    expected: npt.NDArray[Any], got: npt.NDArray[Any], known: npt.NDArray[np.bool_] | None, kind: Kind = "logits"
) -> metrics.Metrics:
    return metrics.compare_outputs(kind, expected, got, known).numbers


def test_by_hand() -> None:
    # centred, where known: p [1, -1], [2, -2] and [1, -1]; q [1, -1], [1, -1] and [-2, 2]
    p = np.array([[[2.0, 0], [4, 0]], [[9, 9], [2, 0]]])
    q = np.array([[[2.0, 0], [2, 0]], [[0, 70], [0, 4]]])
    known = np.array([[True, True], [False, True]])
    found = numbers(p, q, known)
    assert found["correlation"] == pytest.approx((2 + 4 - 4) / math.sqrt((2 + 8 + 2) * (2 + 2 + 8)))
    assert found["correlation_per_sample"] == pytest.approx((6 / math.sqrt(10 * 4) - 1) / 2)
    assert found["agreement"] == pytest.approx(2 / 3)  # of the known positions
    assert found["largest_difference"] == 4
    divergence = numbers(p[1:, 1:], q[1:, 1:], None)["kdl"] or 0
    also = numbers(p[:1, 1:], q[:1, 1:], None)["kdl"] or 0
    assert found["kdl"] == pytest.approx((0 + also + divergence) / 3)


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["logits", "probabilities"]))
def test_what_stands_at_an_ignored_position_changes_nothing(seed: int, kind: Kind) -> None:
    rng = np.random.default_rng(seed)
    p, q, other = rng.dirichlet(np.ones(3), (3, 4, 2, 3)) + 1e-6
    if kind == "logits":
        p, q, other = np.log(p), np.log(q), 100 * other
    known = rng.random((4, 2, 3)) < 0.6
    known[:, 0, 0] = True
    changed = np.where(known[..., None], q, other)
    assert numbers(p, q, known, kind) == numbers(p, changed, known, kind)
    rows = numbers(p[known], q[known], None, kind)  # what is known, as samples of their own
    found = numbers(p, q, known, kind)
    pooled = ("correlation", "correlation_probabilities", "kdl", "agreement", "largest_difference")
    assert [found[name] for name in pooled] == pytest.approx([rows[name] for name in pooled], abs=1e-12)


def test_where_all_is_known_they_are_those_without_a_mask() -> None:
    p, q = np.random.default_rng(0).standard_normal((2, 5, 3, 4))
    masked, plain = (numbers(p, q, known) for known in (np.ones((5, 3), bool), None))
    assert [masked[name] for name in METRICS] == pytest.approx([plain[name] for name in METRICS], abs=1e-12)


def test_the_ledger_leaves_out_what_the_labels_ignore() -> None:
    """A student that is wrong at every ignored pixel, and nowhere else, has lost nothing; read as a class, it has."""
    task = Pixels()
    targets = dict(task.split("test").take(np.arange(100)).targets)
    labels = np.asarray(targets["label"], np.int64)
    known = labels != 255
    teacher = 5 * np.eye(11, dtype=np.float32)[np.where(known, labels, 0)]
    teacher += np.random.default_rng(0).standard_normal(teacher.shape).astype(np.float32) / 10
    student = np.where(known[..., None], teacher, -teacher)
    measured = {
        "teacher": score_outputs(task, "teacher", HopAnswers({"logits": teacher}), targets),
        "student": score_outputs(task, "student", HopAnswers({"logits": student}), targets),
    }
    hop = HopComparer(task, None, find_known(task, targets)).build_hops(measured)["student"]
    values = {metric: hop.get_value("teacher", metric) for metric in ("score_drop", "correlation", "agreement", "kdl")}
    assert values == {"score_drop": 0, "correlation": pytest.approx(1), "agreement": 1, "kdl": 0}
    unmasked = HopComparer(task, None).build_hops(measured)["student"]
    assert (unmasked.get_value("teacher", "agreement") or 1) < 0.96
    bounds = hop.get_bounds("teacher", "agreement")
    assert bounds is not None
    assert 0.9 < bounds.low < bounds.high == 1  # 100 samples that all agree do not show that all do
