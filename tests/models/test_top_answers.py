"""Top answers: by hand, and the same from both sides of a comparison."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models.generation import Floats, follow, generate, normalize_logits
from attar.models.top_answers import FLOOR, TopAnswers, describe_following, describe_logits
from tests.support.tasks.sequences import (
    SIZE,
    draw_sources,
    make_decoding,
    make_history,
    make_table,
)

patient = settings(deadline=None, max_examples=60)

LN = math.log
NAN = math.nan


def take_top(logits: Floats, top: int) -> TopAnswers:
    """Return the ``top`` largest of logits ``[N, T, size]``, smallest first, as answers."""
    logs = normalize_logits(logits.astype(np.float64))
    order = np.argsort(logs, -1)[..., -top:]
    others = np.array(np.exp(logs))
    np.put_along_axis(others, order, 0, -1)
    count = logs.shape[-1] - top
    with np.errstate(divide="ignore"):
        rest = np.log(others.sum(-1) / max(1, count))
    values = np.take_along_axis(logs, order, -1)
    return TopAnswers(values.astype(np.float32), order, rest.astype(np.float32), logs.shape[-1])


def test_what_is_compared_of_logits_by_hand() -> None:
    logits = np.log(np.array([[4, 2, 1, 1]], np.float32)) + 5
    # 1/2, 1/4, 1/8, 1/8: of tokens 2 and 0, all others together 3/8, and the most likely one
    found = describe_logits(logits, np.array([[2, 0]]))
    assert found.tolist() == [pytest.approx([LN(1 / 8), LN(1 / 2), LN(3 / 8), 0])]
    assert found.dtype == np.float32


def test_of_all_tokens_there_are_no_others() -> None:
    found = describe_logits(np.zeros((1, 3), np.float32), np.array([[2, 0, 1]]))
    assert found.tolist() == [pytest.approx([-LN(3)] * 3 + [FLOOR, 0])]


def test_others_that_nearly_cannot_be_have_a_logarithm() -> None:
    logits = np.array([[0.0, -200.0, -200.0]], np.float32)
    assert describe_logits(logits, np.array([[0]]))[0].tolist() == [0, FLOOR, 0]


def test_stored_answers_by_hand() -> None:
    # Five tokens; the others are three, of mean 1/12: together 1/4.
    values = np.log(np.array([[[0.25, 0.5], [NAN, NAN]]], np.float32))
    rest = np.array([[LN(1 / 12), NAN]], np.float32)
    top = TopAnswers(values, np.array([[[4, 1], [0, 0]]]), rest, 5)
    assert top.is_known.tolist() == [[True, False]]
    assert top.best[0, 0] == 1
    found = top.describe()
    assert found[0, 0].tolist() == pytest.approx([LN(1 / 4), LN(1 / 2), LN(1 / 4), 1])
    assert np.isnan(found[0, 1]).all()
    assert found.dtype == np.float32


@patient
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.1, 30))
def test_stored_answers_are_described_as_the_logits_themselves(seed: int, top: int, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(0, scale, (2, 3, 9)).astype(np.float32)
    stored = take_top(logits, top)
    found = stored.describe()
    for place in range(3):
        expected = describe_logits(logits[:, place], stored.indices[:, place])
        np.testing.assert_allclose(found[:, place], expected, rtol=1e-3, atol=1e-4)
        assert found[:, place, -1].tolist() == logits[:, place].argmax(1).tolist()


@patient
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.1, 10))
def test_what_is_described_is_a_distribution(seed: int, top: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, scale, (4, 9)).astype(np.float32)
    indices = np.stack([generator.permutation(9)[:top] for _ in range(4)])
    shares = np.exp(describe_logits(logits, indices)[:, :-1])
    assert shares.sum(1).tolist() == pytest.approx([1] * 4, rel=1e-4)


def test_along_its_own_path_a_teacher_agrees_with_itself() -> None:
    graphs, decoding = make_history(make_table(3)), make_decoding()
    inputs = {"source": draw_sources(1, [1, 3, 5])}
    path = generate(graphs, inputs, decoding)
    lengths = [2, 4, 3]
    logits = np.stack(list(follow(graphs, inputs, path[:, :4], decoding)), 1)
    top = take_top(logits, 3)
    unknown = np.arange(4) >= np.array(lengths)[:, None]
    top.values[unknown] = top.rest[unknown] = NAN
    found = describe_following(graphs, inputs, path, top, decoding)
    assert found.shape == (3, 4, 5)
    assert (np.isnan(found).all(-1) == unknown).all()
    assert not np.isnan(found[~unknown]).any()
    np.testing.assert_allclose(found, top.describe(), atol=1e-4)
    # What is likeliest along a greedy path is the path.
    for row in range(3):
        said = min(lengths[row], int((path[row] != 0).sum()))
        assert found[row, :said, -1].tolist() == path[row, :said].tolist()
    assert top.size == SIZE
