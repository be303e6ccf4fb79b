"""Window: rolling numbers equal those of the same samples at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models.task import Kind
from attar.proof.estimates.metrics import compare_outputs
from attar.serving.observation.window import Window


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["logits", "values", "embedding", "multilabel"]),
    sizes=st.lists(st.integers(1, 5), min_size=1),
    seed=st.integers(0),
)
def test_it_is_the_metrics_of_the_last_samples(kind: Kind, sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    made, expected, got = Window(kind, 8), np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)
    for size in sizes:
        teacher = rng.standard_normal((size, 4)).astype(np.float32)
        student = teacher + 0.3 * rng.standard_normal((size, 4)).astype(np.float32)
        made.add_samples(teacher, student)
        expected, got = np.concatenate([expected, teacher])[-8:], np.concatenate([got, student])[-8:]
    assert made.count == len(expected)
    if made.count < 2:
        assert made.compute_numbers() == {}
        return
    whole = compare_outputs(kind, expected, got).numbers
    wanted = {name: whole[name] for name in ("correlation", "cosine", "agreement", "kdl") if whole[name] is not None}
    assert made.compute_numbers() == pytest.approx(wanted, abs=1e-6)


def test_requests_of_different_lengths() -> None:
    """Token logits [batch, sequence, classes]: hand-worked, two of five tokens disagree, one of two and one of three."""
    made = Window("logits", 100)
    made.add_samples(np.array([[[2.0, 0], [0, 2]]]), np.array([[[2.0, 0], [2, 0]]]))
    made.add_samples(np.array([[[2.0, 0], [0, 2], [0, 2]]]), np.array([[[2.0, 0], [0, 2], [2, 0]]]))
    assert made.compute_numbers()["agreement"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert made.compute_numbers()["correlation"] == pytest.approx((3 - 2) / 5)


def test_tokens_are_identical_or_not() -> None:
    """Of the last three sequences two are; their numbers are not correlated."""
    made = Window("tokens", 3)
    made.add_samples(np.array([[5, 2, 0], [5, 6, 2]]), np.array([[6, 2, 0], [5, 6, 2]]))
    made.add_samples(np.array([[5, 2, 0], [5, 6, 2]]), np.array([[5, 2, 0], [5, 7, 2]]))
    assert made.compute_numbers() == {"agreement": pytest.approx(2 / 3)}
    assert made.deciding == "agreement"
