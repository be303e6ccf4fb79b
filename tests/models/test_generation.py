"""Generation over graphs whose logits are known: greedy, beams, paths, and their lengths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models import generation
from attar.models.generation import (
    FOLLOW,
    MODEL,
    PATH,
    STEP,
    Decoding,
    Floats,
    Integers,
    follow,
    generate,
    generate_greedily,
    generate_with_beam,
    keeps_ended_samples,
    measure_lengths,
    normalize_logits,
    pad_path,
    shift_path,
)
from attar.models.task import Array, Arrays, Output, Tensor
from tests.support.tasks import smoke
from tests.support.tasks.sequences import (
    LONGEST,
    SIZE,
    WORDS,
    Reversal,
    change_task,
    draw_sources,
    make_chain,
    make_decoding,
    make_history,
    make_table,
)

patient = settings(deadline=None, max_examples=60)

seeds = st.integers(0, 10_000)
source_lengths = st.lists(st.integers(1, 5), min_size=1, max_size=4)
LEAST = -1e9
"""The logit of a token that is never said."""


def say(*shares: float) -> list[float]:
    """Return the logits of these probabilities."""
    return [math.log(share) if share else LEAST for share in shares]


# After begin (1): a (3) has 0.6, b (4) 0.4. After a: end 0.4, a and b 0.3. After b: end 0.9, a 0.1.
SURE = say(0, 0, 1, 0, 0)
GARDEN_PATH = [SURE, say(0, 0, 0, 0.6, 0.4), SURE, say(0, 0, 0.4, 0.3, 0.3), say(0, 0, 0.9, 0.1, 0)]
ONE = {"source": np.array([[3]])}


def roll(longest: int = 4) -> Decoding:
    return make_decoding(size=5, longest=longest, growth=(0, 9))


def test_greedy_takes_the_likeliest_token_of_each_step() -> None:
    tokens = generate(make_chain(GARDEN_PATH), ONE, roll())
    assert tokens.tolist() == [[3, 2, 0, 0]]  # a, end, padding
    assert tokens.dtype == np.int64


def test_a_beam_finds_what_greedy_misses() -> None:
    beams, scores = generate_with_beam(make_chain(GARDEN_PATH), ONE, roll(), 2, length_penalty=0)
    assert beams.tolist() == [[[4, 2, 0, 0], [3, 2, 0, 0]]]  # 0.4 * 0.9 before 0.6 * 0.4
    assert np.exp(scores[0]).tolist() == pytest.approx([0.36, 0.24])
    assert scores.dtype == np.float32


def test_the_length_penalty_by_hand() -> None:
    # a (0.6) and end at once (0.4); after a: b (0.9); after b: end.
    chain = [SURE, say(0, 0, 0.4, 0.6, 0), SURE, say(0, 0, 0.1, 0, 0.9), SURE]
    found = {}
    for penalty in (0.0, 1.0):
        beams, scores = generate_with_beam(make_chain(chain), ONE, roll(), 2, penalty)
        found[penalty] = dict(zip(map(tuple, beams[0].tolist()), scores[0].tolist(), strict=True))
    long, short = (3, 4, 2, 0), (2, 0, 0, 0)
    assert found[0.0] == pytest.approx({long: math.log(0.54), short: math.log(0.4)})
    assert found[1.0] == pytest.approx({long: math.log(0.54) / 3, short: math.log(0.4)})


def test_a_finished_hypothesis_may_be_overtaken_and_may_stay() -> None:
    # end at once 0.5, a 0.5; after a: end 0.99. The finished one stays first at equal sums.
    chain = [SURE, say(0, 0, 0.5, 0.5, 0), SURE, say(0, 0, 0.99, 0.01, 0), SURE]
    beams, scores = generate_with_beam(make_chain(chain), ONE, roll(), 2, 0)
    assert beams[0].tolist() == [[2, 0, 0, 0], [3, 2, 0, 0]]
    assert np.exp(scores[0]).tolist() == pytest.approx([0.5, 0.495])


@pytest.mark.parametrize("beam", [0, -1, 6])
def test_a_beam_of_no_size(beam: int) -> None:
    with pytest.raises(ValueError, match=str(beam)):
        generate_with_beam(make_chain(GARDEN_PATH), ONE, roll(), beam)


@patient
@given(seed=seeds, lengths=source_lengths)
def test_greedy_is_a_beam_of_one(seed: int, lengths: list[int]) -> None:
    graphs, decoding = make_history(make_table(seed)), make_decoding()
    inputs = {"source": draw_sources(seed, lengths)}
    beams, _ = generate_with_beam(graphs, inputs, decoding, 1)
    assert beams[:, 0].tolist() == generate_greedily(graphs, inputs, decoding).tolist()


def find_length(path: Integers, limit: int) -> int:
    """Return the number of tokens that a hypothesis said."""
    ends = np.flatnonzero(path == WORDS.end)
    return int(ends[0]) + 1 if len(ends) else limit


@patient
@given(
    seed=seeds,
    lengths=source_lengths,
    beam=st.integers(1, SIZE),
    penalty=st.sampled_from([0.0, 0.6, 1.0]),
)
def test_a_score_is_the_sum_of_the_log_probabilities_along_the_path(
    seed: int, lengths: list[int], beam: int, penalty: float
) -> None:
    graphs, decoding = make_history(make_table(seed)), make_decoding()
    inputs = {"source": draw_sources(seed, lengths)}
    beams, scores = generate_with_beam(graphs, inputs, decoding, beam, penalty)
    limits = decoding.limit_lengths(inputs)
    for rank in range(beam):
        steps = follow(graphs, inputs, beams[:, rank], decoding)
        logs = normalize_logits(np.stack(list(steps), 1).astype(np.float64))
        for row, limit in enumerate(limits):
            path = beams[row, rank]
            own = find_length(path, int(limit))
            said = [logs[row, place, path[place]] for place in range(own)]
            assert scores[row, rank] == pytest.approx(sum(said) / own**penalty, rel=1e-4)
            assert not path[own:].any()


@patient
@given(seed=seeds, lengths=source_lengths, beam=st.integers(1, SIZE))
def test_hypotheses_differ_and_the_best_come_first(seed: int, lengths: list[int], beam: int) -> None:
    inputs = {"source": draw_sources(seed, lengths)}
    graphs, decoding = make_history(make_table(seed)), make_decoding()
    beams, scores = generate_with_beam(graphs, inputs, decoding, beam)
    assert all(len(set(map(tuple, sample.tolist()))) == beam for sample in beams)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert np.isfinite(scores).all()


@patient
@given(seed=seeds, lengths=source_lengths, more=st.integers(0, 3), beam=st.integers(1, 4))
def test_a_sample_depends_neither_on_its_batch_mates_nor_on_padding(seed: int, lengths: list[int], more: int, beam: int) -> None:
    graphs, decoding = make_history(make_table(seed)), make_decoding()
    sources = draw_sources(seed, lengths)
    tokens = generate_greedily(graphs, {"source": sources}, decoding)
    beams, scores = generate_with_beam(graphs, {"source": sources}, decoding, beam)
    for row, length in enumerate(lengths):
        alone = {"source": np.pad(sources[row : row + 1, :length], ((0, 0), (0, more)))}
        assert generate_greedily(graphs, alone, decoding).tolist() == tokens[[row]].tolist()
        own_beams, own_scores = generate_with_beam(graphs, alone, decoding, beam)
        assert own_beams.tolist() == beams[[row]].tolist()
        assert own_scores.tolist() == scores[[row]].tolist()


def test_samples_that_have_ended_are_left_out() -> None:
    """Limits of 2, 2, 4, 6: after two tokens half are left, after four one."""
    graphs, sizes = make_chain([say(0, 0, 0, 1, 0)] * 5), []

    def count(inputs: Arrays) -> dict[str, Array]:
        sizes.append(len(inputs["token"]))
        return graphs[STEP](inputs)

    sources = {"source": np.array([[3, 0, 0], [3, 0, 0], [3, 3, 0], [3, 3, 3]])}
    decoding = make_decoding(size=5, longest=7, growth=(2, 0))
    tokens = generate_greedily({**graphs, STEP: count}, sources, decoding)
    assert sizes == [4, 4, 2, 2, 1, 1]
    assert (tokens != WORDS.pad).sum(1).tolist() == [2, 2, 4, 6]


@pytest.mark.parametrize(("ended", "keeps"), [([0, 0, 0, 0], True), ([1, 0, 0, 0], False), ([1, 0, 0, 0, 0], True), ([1], False)])
def test_ended_samples_are_kept_while_more_than_three_of_four_go_on(ended: list[int], keeps: bool) -> None:
    assert keeps_ended_samples(np.array(ended, bool)) == keeps


def test_the_source_limits_the_length() -> None:
    never_ends = make_chain([say(0, 0, 0, 1, 0)] * 5)
    sources = {"source": np.array([[3, 0, 0, 0, 0], [3, 3, 3, 0, 0], [3, 3, 3, 3, 3]])}
    decoding = make_decoding(size=5, longest=7, growth=(2, 0))
    assert decoding.limit_lengths(sources).tolist() == [2, 6, 7]
    tokens = generate(never_ends, sources, decoding)
    assert (tokens == 3).sum(1).tolist() == [2, 6, 7]
    assert tokens.shape == (3, 7)
    beams, _ = generate_with_beam(never_ends, sources, decoding, 1)
    assert beams[:, 0].tolist() == tokens.tolist()


def test_a_limit_is_at_least_one_token() -> None:
    empty = {"source": np.zeros((2, 3), np.int64)}
    assert make_decoding(growth=(1, 0)).limit_lengths(empty).tolist() == [1, 1]
    tokens = generate(make_chain([say(0, 0, 0, 1, 0)] * 5), empty, make_decoding(5, growth=(1, 0)))
    assert tokens[:, :2].tolist() == [[3, 0], [3, 0]]


def test_how_a_task_generates() -> None:
    assert generation.find_decoding(Reversal()) == make_decoding()
    assert generation.find_decoding(smoke.ThreeNumbers()) is None
    with pytest.raises(ValueError, match="ThreeNumbers"):
        generation.require_decoding(smoke.ThreeNumbers())


def test_without_a_padded_source_only_the_longest_limits() -> None:
    inputs = {"source": Tensor("int64", ("batch", 5), high=SIZE)}
    decoding = generation.require_decoding(change_task(inputs=inputs))
    assert decoding.source is None
    assert decoding.limit_lengths({"source": np.zeros((2, 5))}).tolist() == [LONGEST] * 2


def test_own_special_tokens_are_read() -> None:
    output = Output(("batch", 9), kind="tokens", size=30, begin=7, end=8, pad=9, growth=(3, 4))
    inputs = {"source": Tensor("int64", ("batch", "source"), high=30, pad=9)}
    decoding = generation.require_decoding(change_task(inputs=inputs, outputs={"y": output}))
    assert decoding.vocabulary == generation.Vocabulary(30, 7, 8, 9)
    assert decoding.limit_lengths({"source": np.array([[0, 9], [9, 9]])}).tolist() == [7, 4]


def test_what_can_generate_at_once_is_asked_at_once() -> None:
    path = np.array([[3, 2, 0, 0]])

    def model(inputs: Arrays) -> dict[str, Array]:
        return {"words": path.astype(np.int32)}

    tokens = generate({MODEL: model, **make_chain([SURE] * 5)}, ONE, roll())
    assert tokens.tolist() == path.tolist()
    assert tokens.dtype == np.int64


def test_what_can_follow_at_once_is_asked_at_once() -> None:
    path, logits = np.array([[3, 2]]), np.arange(10, dtype=np.float32).reshape(1, 2, 5)

    def whole(inputs: Arrays) -> dict[str, Array]:
        assert np.asarray(inputs[PATH]).tolist() == path.tolist()
        assert "source" in inputs
        return {"words": logits}

    steps = list(follow({FOLLOW: whole}, ONE, path, roll()))
    assert [step.tolist() for step in steps] == [[[0, 1, 2, 3, 4]], [[5, 6, 7, 8, 9]]]


def test_following_gives_the_logits_about_each_token() -> None:
    steps = list(follow(make_chain(GARDEN_PATH), ONE, np.array([[3, 4, 2]]), roll()))
    expected = np.array([GARDEN_PATH[token] for token in (1, 3, 4)], np.float32)
    assert np.concatenate(steps).tolist() == expected.tolist()


def test_a_network_reads_a_path_one_token_later() -> None:
    path = np.array([[3, 4, 2, 0], [5, 2, 0, 0]])
    assert shift_path(path, WORDS).tolist() == [[1, 3, 4, 2], [1, 5, 2, 0]]
    assert pad_path(path, 9, 5)[:, 4:].tolist() == [[9], [9]]


@pytest.mark.parametrize(
    ("row", "length"),
    [
        ([3, 4, 2, 0], 3),
        ([2, 0, 0, 0], 1),
        ([3, 4, 5, 3], 4),  # no end token: the limit was reached
        ([3, 4, 0, 0], 2),
        ([3, 0, 4, 0], 3),
        ([0, 0, 0, 0], 0),
        ([3, 2, 2, 2], 2),
    ],
)
def test_lengths_by_hand(row: list[int], length: int) -> None:
    assert measure_lengths(np.array([row]), WORDS).tolist() == [length]


@patient
@given(seed=seeds, shift=st.floats(-1000, 1000))
def test_normalized_logits_are_log_probabilities(seed: int, shift: float) -> None:
    logits: Floats = np.random.default_rng(seed).normal(0, 5, (3, 4)).astype(np.float32)
    logs = normalize_logits(logits)
    assert np.exp(logs).sum(1).tolist() == pytest.approx([1, 1, 1], rel=1e-5)
    np.testing.assert_allclose(normalize_logits(logits + np.float32(shift)), logs, atol=1e-3)
