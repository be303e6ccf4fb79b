"""Metrics of a multilabel output against numbers worked by hand, and what must hold for any two answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attar.models.tasks.attributes import Attributes
from attar.proof.estimates import metrics
from attar.proof.estimates.intervals import bound_score, bound_score_drop, list_metric_bounds
from attar.proof.estimates.sums import Sums

Numbers = npt.NDArray[np.float64]
LN3 = math.log(3)  # sigmoid(ln 3) = 3/4


def numbers(expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> metrics.Metrics:
    return metrics.compare_outputs("multilabel", expected, got).numbers


def test_correlation_pools_the_logits_after_each_label_is_centred() -> None:
    # centred by column: p [-1, 2], [1, -2]; q [-2, -1], [2, 1]. p.q = 2 - 2 + 2 - 2 = 0, and without the second label 4 / 4
    p, q = np.array([[9.0, -8], [11, -12]]), np.array([[1.0, 3], [5, 5]])
    assert numbers(p, q)["correlation"] == pytest.approx(0)
    assert numbers(p[:, :1], q[:, :1])["correlation"] == pytest.approx(1)
    p[0, 1] = -12  # a label that is constant on one side adds nothing to the product: p.q = 4, |p|^2 = 2, |q|^2 = 10
    assert numbers(p, q)["correlation"] == pytest.approx(4 / math.sqrt(2 * 10))


def test_that_some_labels_are_rare_is_no_knowledge() -> None:
    """A student that knows how rare each label is, and nothing of a sample, correlates with nothing."""
    usual = np.array([-20.0, 0.0, 20.0])
    teacher, student = (np.random.default_rng(seed).standard_normal((500, 3)) + usual for seed in (0, 1))
    assert abs(numbers(teacher, student)["correlation"] or 1) < 0.1
    assert numbers(teacher, np.tile(usual, (500, 1)))["correlation"] == 0


def test_kdl_is_of_yes_and_no_of_each_label() -> None:
    # KL(3/4 || 1/2) = 3/4 ln 3/2 + 1/4 ln 1/2, in one of four entries
    found = numbers(np.array([[LN3, 0.0], [0, LN3]]), np.array([[0.0, 0], [0, LN3]]))["kdl"]
    assert found == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 4)


def test_agreement_is_the_share_of_equal_decisions() -> None:
    # of six decisions the second and the last differ: 0 is a no
    expected, got = np.array([[1.0, -1, 2], [3, 0, 0]]), np.array([[9.0, 1, 2], [1, -5, 1]])
    found = numbers(expected, got)
    assert found["agreement"] == pytest.approx(4 / 6)
    assert found["largest_difference"] == 8


def test_probabilities_are_correlated_after_each_label_is_centred() -> None:
    # sigmoids [3/4, 1/4] and [1/2, 1/4] of one label: two samples always lie on a line
    found = numbers(np.array([[LN3], [-LN3]]), np.array([[0.0], [-LN3]]))
    assert found["correlation_probabilities"] == pytest.approx(1)
    assert found["correlation_per_sample"] is None  # of one label a sample there is none


@given(sides=arrays(np.float32, (2, 7, 3), elements=st.floats(-50, 50, width=32)))
def test_what_holds_for_any_answers(sides: npt.NDArray[np.float32]) -> None:
    p, q = sides
    found, itself = numbers(p, q), numbers(p, p)
    values = [value for value in found.values() if value is not None]
    assert all(math.isfinite(value) for value in values)
    assert -1 <= (found["correlation"] or 0) <= 1
    assert (found["kdl"] or 0) >= 0
    assert (itself["kdl"], itself["agreement"], itself["largest_difference"]) == (0, 1, 0)


@given(sides=arrays(np.float32, (2, 5, 3), elements=st.floats(-30, 30, width=32)))
def test_kdl_and_agreement_are_those_of_the_two_logits_0_and_z(sides: npt.NDArray[np.float32]) -> None:
    p, q = (np.stack([np.zeros_like(side), side], -1) for side in sides)
    binary, found = metrics.compare_outputs("logits", p, q).numbers, numbers(*sides)
    assert found["kdl"] == pytest.approx(binary["kdl"], abs=1e-9)
    assert found["agreement"] == binary["agreement"]


def test_bounds_of_shares_of_decisions_are_resampled_by_samples() -> None:
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((200, 4))
    compared = metrics.compare_outputs("multilabel", teacher, teacher + 0.3 * rng.standard_normal((200, 4)))
    sources = list_metric_bounds(compared)
    assert set(sources) == {"correlation", "correlation_per_sample", "correlation_probabilities", "kdl", "agreement"}
    assert all(isinstance(source, Sums) for source in sources.values())


def test_the_score_has_bounds_although_it_is_no_mean() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (200, 6))
    right = np.where(labels > 0, 1.0, -1.0)
    wrong = np.where(rng.random((200, 6)) < 0.1, -right, right)
    before, after = (Attributes().score({"attributes": each}, {"attributes": labels}) for each in (right, wrong))
    drop = bound_score_drop(Attributes(), before, after)
    assert 0.05 < drop.low < Attributes().aggregate(before) - Attributes().aggregate(after) < drop.high < 0.15
    assert bound_score(Attributes(), before) == (1.0, 1.0)
