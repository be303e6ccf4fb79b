"""Metrics against numbers worked by hand, and what must hold for any two answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from attar.models.task import Kind
from attar.proof.comparison.hop_comparer import find_worst_class
from attar.proof.estimates import metrics
from attar.proof.ledger.ledger import ClassDrop

Numbers = npt.NDArray[np.float64]


def logits(sides: int = 2) -> st.SearchStrategy[Numbers]:
    shapes = array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=5)
    return shapes.flatmap(lambda shape: arrays(np.float32, (sides, *shape), elements=st.floats(-50, 50, width=32)))


def numbers(kind: Kind, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> metrics.Metrics:
    return metrics.compare_outputs(kind, expected, got).numbers


def test_correlation_pools_the_logits_of_all_samples_after_centring_each() -> None:
    # centred: p = [-1, 1], [-3, 3]; q = [-2, 2], [1, -1]. p.q = 2*2 - 3*2 = -2; |p|^2 = 2 + 18 = 20; |q|^2 = 8 + 2 = 10
    p, q = np.array([[0.0, 2], [10, 16]]), np.array([[1.0, 5], [2, 0]])
    found = numbers("logits", p, q)
    assert found["correlation"] == pytest.approx(-2 / math.sqrt(200))
    assert found["correlation_per_sample"] == pytest.approx((1 - 1) / 2)
    assert found["agreement"] == 0.5
    assert found["largest_difference"] == 16


def test_probabilities_are_compared_too() -> None:
    # softmax: p = [1/2, 1/2], [3/4, 1/4]; q = [1/4, 3/4], [3/4, 1/4]. Deviations from 1/2: p [0, 0, 1, -1]/4, q [-1, 1, 1, -1]/4
    p, q = np.log([[1.0, 1.0], [3.0, 1.0]]), np.log([[1.0, 3.0], [3.0, 1.0]])
    assert numbers("logits", p, q)["correlation_probabilities"] == pytest.approx(2 / math.sqrt(2 * 4))


def test_kdl_is_the_divergence_from_the_teacher() -> None:
    # KL([1/2, 1/2] || [1/4, 3/4]) = 1/2 ln 2 + 1/2 ln 2/3 = 1/2 ln 4/3; the other sample has none
    p, q = np.log([[1.0, 1.0], [3.0, 1.0]]), np.log([[1.0, 3.0], [3.0, 1.0]])
    assert numbers("logits", p, q)["kdl"] == pytest.approx(0.5 * math.log(4 / 3) / 2)
    # the other way round it is another number: KL([1/4, 3/4] || [1/2, 1/2]) = 1/4 ln 1/2 + 3/4 ln 3/2
    assert numbers("logits", q, p)["kdl"] == pytest.approx((0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2)


def test_values_are_compared_as_they_are() -> None:
    found = numbers("values", np.array([[1.0], [2], [3]]), np.array([[11.0], [12], [16]]))
    # deviations: [-1, 0, 1] and [-2, -1, 3]; their product is 5, the squares 2 and 14
    assert found["correlation"] == pytest.approx(5 / math.sqrt(28))
    assert found["correlation_per_sample"] is None  # of one value a sample there is none
    assert (found["kdl"], found["agreement"], found["correlation_probabilities"]) == (None, None, None)


@pytest.mark.parametrize("kind", ["logits", "values"])
def test_a_constant_answer_correlates_with_nothing_not_even_itself(kind: Kind) -> None:
    constant, other = np.full((5, 3), 0.1, np.float32), np.arange(15, dtype=np.float32).reshape(5, 3)
    for p, q in ((constant, other), (other, constant), (constant, constant)):
        assert numbers(kind, p, q)["correlation"] == 0
        assert numbers(kind, p, q)["correlation_per_sample"] == 0


def test_of_several_outputs_the_worst_counts() -> None:
    near = numbers("logits", np.array([[0.0, 2], [4, 1]]), np.array([[0.0, 2.5], [4, 1]]))
    far = numbers("values", np.array([[1.0], [2]]), np.array([[2.0], [1]]))
    found = metrics.select_worst([near, far])
    assert found["correlation"] == pytest.approx(-1)
    assert found["largest_difference"] == 1
    assert (found["kdl"], found["agreement"]) == (near["kdl"], 1)
    assert metrics.select_worst([far])["kdl"] is None


def test_worst_class() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    before, after = np.array([[1.0], [1], [1], [1], [0]]), np.array([[1.0], [0], [0], [1], [0]])
    found = find_worst_class(labels, ["cat", "dog", "never"], before, after, lambda s: float(s[:, 0].mean()))
    assert found == ClassDrop("cat", 0.5)
    assert find_worst_class(labels[:0], ["cat"], before[:0], after[:0], lambda s: 0.0) is None


@given(logits())
def test_all_metrics_are_finite_and_in_range(pair: Numbers) -> None:
    found = numbers("logits", pair[0], pair[1])
    for name in ("correlation", "correlation_per_sample", "correlation_probabilities"):
        assert -1 <= (found[name] or 0) <= 1
    assert 0 <= (found["agreement"] or 0) <= 1
    others = {"cosine", "identical"}  # of embeddings, and of tokens
    assert all(value is not None and math.isfinite(value) for name, value in found.items() if name not in others)
    assert all(found[name] is None for name in others)
    assert (found["kdl"] or 0) >= 0


@given(logits(1), st.floats(-20, 20))
def test_a_constant_added_to_logits_changes_nothing_but_their_difference(one: Numbers, shift: float) -> None:
    p = one[0].astype(np.float64).round(3)  # what a shift cannot swallow
    found = numbers("logits", p, p + shift)
    assert found["kdl"] == pytest.approx(0, abs=1e-9)
    assert found["largest_difference"] == pytest.approx(abs(shift), abs=1e-9)
    assert found["correlation"] == pytest.approx(numbers("logits", p, p)["correlation"], abs=1e-6)


@given(logits(), st.sampled_from(["logits", "values"]))
def test_in_how_many_parts_the_samples_are_compared_changes_nothing(pair: Numbers, kind: Kind) -> None:
    whole = numbers(kind, pair[0], pair[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "ENTRIES", 1)
        assert numbers(kind, pair[0], pair[1]) == pytest.approx(whole, abs=1e-12)


@given(logits(), st.floats(0.1, 10))
def test_correlation_is_symmetric_and_blind_to_scale(pair: Numbers, scale: float) -> None:
    p, q = pair.astype(np.float64)
    found = numbers("values", p, q)["correlation"]
    assert numbers("values", q, p)["correlation"] == pytest.approx(found, abs=1e-9)
    assert numbers("values", p, q * scale)["correlation"] == pytest.approx(found, abs=1e-6)


def test_scipy_and_numpy_agree() -> None:
    from scipy.special import rel_entr, softmax
    from scipy.stats import pearsonr

    p, q = np.random.default_rng(1).standard_normal((2, 200, 7)) * 3
    centred = [(x - x.mean(1, keepdims=True)) for x in (p, q)]
    found = numbers("logits", p, q)
    assert found["correlation"] == pytest.approx(pearsonr(centred[0].ravel(), centred[1].ravel()).statistic)
    assert found["correlation_per_sample"] == pytest.approx(
        np.mean([pearsonr(a, b).statistic for a, b in zip(p, q, strict=True)])
    )
    assert found["kdl"] == pytest.approx(rel_entr(softmax(p, 1), softmax(q, 1)).sum(1).mean())
