"""Numbers and their French words: a table, the splits, and the tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models import preprocess
from attar.models.checks import task as task_check
from attar.models.generation import find_decoding, measure_lengths
from attar.models.tasks.numbers import (
    COUNTS,
    LIMIT,
    LONGEST,
    SIZE,
    Numbers,
    draw_numbers,
    encode_words,
    match_exactly,
    read_vocabulary,
    spell_number,
)

patient = settings(deadline=None, max_examples=30)

TABLE = {
    0: "zéro",
    1: "un",
    10: "dix",
    16: "seize",
    17: "dix sept",
    20: "vingt",
    21: "vingt et un",
    22: "vingt deux",
    61: "soixante et un",
    70: "soixante dix",
    71: "soixante et onze",
    72: "soixante douze",
    79: "soixante dix neuf",
    80: "quatre vingts",
    81: "quatre vingt un",
    90: "quatre vingt dix",
    91: "quatre vingt onze",
    99: "quatre vingt dix neuf",
    100: "cent",
    101: "cent un",
    180: "cent quatre vingts",
    200: "deux cents",
    201: "deux cent un",
    280: "deux cent quatre vingts",
    1000: "mille",
    1001: "mille un",
    2000: "deux mille",
    21_000: "vingt et un mille",
    71_071: "soixante et onze mille soixante et onze",
    80_000: "quatre vingt mille",
    100_000: "cent mille",
    200_000: "deux cent mille",
    200_200: "deux cent mille deux cents",
    999_999: "neuf cent quatre vingt dix neuf mille neuf cent quatre vingt dix neuf",
}


@pytest.mark.parametrize(("number", "words"), TABLE.items())
def test_spelling(number: int, words: str) -> None:
    assert spell_number(number) == words


def test_no_two_numbers_have_the_same_words() -> None:
    assert len({spell_number(number) for number in range(0, LIMIT, 7)}) == -(-LIMIT // 7)


def test_no_number_is_in_two_splits() -> None:
    splits = draw_numbers()
    assert {name: len(numbers) for name, numbers in splits.items()} == COUNTS
    held_out = set(splits["test"]) | set(splits["validation"])
    assert len(held_out) == COUNTS["test"] + COUNTS["validation"]
    assert not held_out & set(splits["train"])
    assert set(range(1000)) <= held_out | set(splits["train"])
    assert all(0 <= number < LIMIT for numbers in splits.values() for number in numbers)


def test_numbers_of_every_length_are_learned_and_asked() -> None:
    for numbers in draw_numbers().values():
        assert {len(str(number)) for number in numbers} >= {2, 3, 4, 5, 6}


def test_the_vocabulary_has_every_token_once() -> None:
    vocabulary = read_vocabulary()
    assert sorted(vocabulary.values()) == list(range(SIZE))
    assert set(" ".join(map(spell_number, range(1001))).split()) <= set(vocabulary)
    assert set("0123456789") <= set(vocabulary)


@patient
@given(st.lists(st.integers(0, LIMIT - 1), min_size=1, max_size=5))
def test_tokens_are_the_words_the_end_and_padding(numbers: list[int]) -> None:
    tokens, decoding = encode_words(numbers), find_decoding(Numbers())
    assert decoding is not None
    words = {token: word for word, token in read_vocabulary().items()}
    lengths = measure_lengths(tokens, decoding.vocabulary)
    for number, row, length in zip(numbers, tokens, lengths, strict=True):
        assert " ".join(words[token] for token in row[: length - 1].tolist()) == spell_number(number)
        assert row[length - 1] == decoding.vocabulary.end
        assert (row[length:] == decoding.vocabulary.pad).all()


def test_the_limits_leave_room_for_every_number() -> None:
    decoding = find_decoding(Numbers())
    assert decoding is not None
    slope, offset = decoding.growth
    longest = dict.fromkeys(range(1, 7), 0)
    for number in [*range(1000), *range(1000, LIMIT, 997), 97_497, 497_497]:
        digits = len(str(number))
        longest[digits] = max(longest[digits], len(spell_number(number).split()) + 1)
    assert all(said <= min(LONGEST, slope * digits + offset) for digits, said in longest.items())
    assert longest[6] == 14


def test_digits_are_tokens_of_their_own() -> None:
    steps = Numbers.preprocess
    found = preprocess.apply(steps, {"digits": np.array(["71", "200000"])})["digits"]
    vocabulary = read_vocabulary()
    assert found.tolist() == [
        [vocabulary["7"], vocabulary["1"], 0, 0, 0, 0],
        [vocabulary[digit] for digit in "200000"],
    ]


def test_only_the_whole_sequence_counts() -> None:
    expected = encode_words([71, 80])
    got = expected.copy()
    got[1, 1] += 1
    assert match_exactly(got, expected).tolist() == [[1], [0]]
    assert Numbers().score({"words": got}, {"words": expected}).tolist() == [[1], [0]]


def test_the_task_is_right() -> None:
    task_check.check_task(Numbers())
