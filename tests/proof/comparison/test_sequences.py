"""Next tokens of two models along the same paths, by hand, and what holds for any two."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models.generation import Floats, normalize_logits
from attar.models.top_answers import describe_logits
from attar.proof.comparison.sequences import compare_sequences
from attar.proof.estimates.metrics import Metrics

patient = settings(deadline=None, max_examples=40)
LN2 = math.log(2)


def describe(*places: tuple[list[float], int]) -> Floats:
    """Return one path: of each place the shares of two tokens and of all others, and the best token."""
    return np.array([[*np.log(shares), best] for shares, best in places], np.float32)


def stack(*samples: Floats) -> Floats:
    """Return samples with NaN behind the shorter ones."""
    longest = max(map(len, samples))
    rows = [np.pad(path, ((0, longest - len(path)), (0, 0)), constant_values=np.nan) for path in samples]
    return np.stack(rows)


EXPECTED = stack(
    describe(([1 / 2, 1 / 4, 1 / 4], 7), ([1 / 2, 1 / 4, 1 / 4], 3)),
    describe(([1 / 4, 1 / 2, 1 / 4], 5)),
)
GOT = stack(
    describe(([1 / 4, 1 / 4, 1 / 2], 7), ([1 / 2, 1 / 4, 1 / 4], 4)),
    describe(([1 / 8, 1 / 2, 3 / 8], 5)),
)


def compare(expected: Floats, got: Floats) -> Metrics:
    return compare_sequences(expected, got).numbers


def test_kdl_and_agreement_are_means_over_tokens() -> None:
    found = compare(EXPECTED, GOT)
    first = 1 / 2 * LN2 - 1 / 4 * LN2
    last = 1 / 4 * LN2 + 1 / 4 * math.log(2 / 3)
    assert found["kdl"] == pytest.approx((first + 0 + last) / 3, rel=1e-5)
    assert found["agreement"] == pytest.approx(2 / 3)
    assert found["largest_difference"] == pytest.approx(LN2, rel=1e-5)


def test_correlation_pools_the_centred_logarithms_of_the_top_tokens() -> None:
    # In halves of ln 2: p (1, -1), (1, -1), (-1, 1); q (0, 0), (1, -1), (-2, 2).
    found = compare(EXPECTED, GOT)
    assert found["correlation"] == pytest.approx(6 / math.sqrt(6 * 10), rel=1e-5)
    # By sample: 2 / sqrt(4 * 2), and 1.
    assert found["correlation_per_sample"] == pytest.approx((math.sqrt(1 / 2) + 1) / 2, rel=1e-5)


def test_correlation_of_probabilities_counts_the_others() -> None:
    # From a third, in 24ths: p (4, -2, -2) twice, (-2, 4, -2); q (-2, -2, 4), (4, -2, -2), (-5, 4, 1).
    found = compare(EXPECTED, GOT)["correlation_probabilities"]
    assert found == pytest.approx((-12 + 24 + 24) / math.sqrt(72 * 90), rel=1e-5)


def test_a_teacher_that_only_translates_agrees_and_nothing_else() -> None:
    """Its tokens are 7, 3 and 5; the student's likeliest ones 7, 4 and 5."""
    found = compare(EXPECTED[..., -1:], GOT)
    assert found.pop("agreement") == pytest.approx(2 / 3)
    assert set(found.values()) == {None}


def test_two_models_at_one_token_have_no_correlation() -> None:
    one, two = stack(describe(([1 / 2, 1 / 2], 7))), stack(describe(([1 / 4, 3 / 4], 7)))
    found = compare(one, two)
    assert found["correlation"] is found["correlation_per_sample"] is None
    assert found["kdl"] == pytest.approx(1 / 2 * LN2 + 1 / 2 * math.log(2 / 3), rel=1e-5)
    assert found["largest_difference"] == pytest.approx(LN2, rel=1e-5)
    assert found["agreement"] == 1


def test_sums_are_by_sample() -> None:
    whole = compare_sequences(EXPECTED, GOT).sums
    parts = [compare_sequences(EXPECTED[[row]], GOT[[row]]).sums for row in range(2)]
    for name, sums in whole.items():
        assert len(sums.columns) == 2
        joined = np.concatenate([part[name].columns for part in parts])
        np.testing.assert_allclose(sums.columns, joined)


def draw_sides(seed: int, lengths: list[int], top: int) -> tuple[Floats, Floats, Floats]:
    """Return two models' logits ``[2, N, T, 9]`` and what is compared of each."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (2, len(lengths), max(lengths), 9)).astype(np.float32)
    indices = np.argsort(logits[0], -1)[..., -top:]
    own = np.arange(max(lengths)) < np.array(lengths)[:, None]
    sides = []
    for side in logits:
        rows = describe_logits(side.reshape(-1, 9), indices.reshape(-1, top))
        sides.append(np.where(own[..., None], rows.reshape(*own.shape, -1), np.nan))
    return logits, sides[0], sides[1]


paths = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@patient
@given(seed=st.integers(0, 1000), lengths=paths, top=st.integers(2, 9))
def test_a_model_is_as_it_is(seed: int, lengths: list[int], top: int) -> None:
    _, side, _ = draw_sides(seed, lengths, top)
    found = compare(side, side)
    assert found["correlation"] == pytest.approx(1)
    assert found["kdl"] == pytest.approx(0, abs=1e-6)
    assert (found["agreement"], found["largest_difference"]) == (1, 0)


@patient
@given(seed=st.integers(0, 1000), lengths=paths, top=st.integers(1, 9))
def test_kdl_is_at_most_that_over_all_tokens(seed: int, lengths: list[int], top: int) -> None:
    logits, expected, got = draw_sides(seed, lengths, top)
    p, q = normalize_logits(logits.astype(np.float64))
    dense = (np.exp(p) * (p - q)).sum(-1)
    own = ~np.isnan(expected[..., 0])
    found = compare(expected, got)["kdl"]
    assert found is not None
    assert 0 <= found <= dense[own].mean() + 1e-5
    if top == 9:
        assert found == pytest.approx(dense[own].mean(), rel=1e-4)


@patient
@given(seed=st.integers(0, 1000), lengths=paths, more=st.integers(1, 3))
def test_padding_changes_nothing(seed: int, lengths: list[int], more: int) -> None:
    _, expected, got = draw_sides(seed, lengths, 3)
    width = ((0, 0), (0, more), (0, 0))
    padded = [np.pad(side, width, constant_values=np.nan) for side in (expected, got)]
    assert compare(*padded) == compare(expected, got)


def test_a_path_without_tokens_has_no_share() -> None:
    nothing = np.full((1, *EXPECTED.shape[1:]), np.nan, np.float32)
    expected, got = np.concatenate([EXPECTED, nothing]), np.concatenate([GOT, nothing])
    found, without = compare(expected, got), compare(EXPECTED, GOT)
    for name in ("kdl", "agreement", "correlation", "correlation_probabilities"):
        assert found[name] == without[name]
