"""What is refused of an output of tokens, and of its labels: each message names what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models.checks import task as task_check
from attar.models.checks.tokens import check_label_lengths, check_token_labels, find_malformed_row, find_wrong_row
from attar.models.generation import require_decoding
from attar.models.task import InMemory, Output, SplitName
from attar.models.tasks.numbers import Numbers
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from tests.support.tasks.sequences import LONGEST, SIZE, WORDS, Reversal, change_task

patient = settings(deadline=None, max_examples=30)

FIELDS: dict[str, Any] = {"kind": "tokens", "target": "words", "size": SIZE, "growth": (1, 1)}


def refuse(*axes: int | str, **fields: Any) -> str:
    """Return why a task whose output has these is refused."""
    output = Output(("batch", *(axes or (LONGEST,))), **{**FIELDS, **fields})
    ranges = {**Reversal.ranges, "target": (1, 9)}
    with pytest.raises(StageError) as refused:
        task_check.check_task(change_task(outputs={"words": output}, ranges=ranges))
    message = str(refused.value)
    assert message.startswith("Changed.outputs['words']")
    return message


def test_a_task_of_tokens_is_right() -> None:
    task_check.check_task(Reversal())


def test_tokens_beside_another_output() -> None:
    outputs = {**Reversal.outputs, "more": Output(("batch", 3))}
    with pytest.raises(StageError, match="beside 1 other"):
        task_check.check_task(change_task(outputs=outputs))


@pytest.mark.parametrize("axes", [("target",), (1,), (3, 4)])
def test_axes_that_are_no_sequence(axes: tuple[int | str, ...]) -> None:
    message = refuse(*axes)
    assert str(("batch", *axes)) in message
    assert "LONGEST" in message


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"begin": SIZE}, f"begin = {SIZE}"),
        ({"end": -1}, "end = -1"),
        ({"pad": 99, "end": 98}, "end = 98, pad = 99"),
        ({"size": 3}, "size = 3"),
        ({"size": 0}, "size = 0"),
    ],
)
def test_special_tokens_outside_the_vocabulary(fields: dict[str, int], named: str) -> None:
    assert named in refuse(**fields)


@pytest.mark.parametrize("fields", [{"begin": 2}, {"pad": 1}, {"end": 0}])
def test_special_tokens_that_are_one(fields: dict[str, int]) -> None:
    assert "different" in refuse(**fields)


@pytest.mark.parametrize("growth", [(-1, 5), (1, 0)])
def test_a_growth_that_allows_nothing(growth: tuple[int, int]) -> None:
    assert str(growth) in refuse(growth=growth)


WRONG = {
    "without an end token": [3, 4, 3, 4, 3, 4],
    "padding before the end": [3, 0, 2, 0, 0, 0],
    "two end tokens": [3, 2, 2, 0, 0, 0],
    "a token behind the end": [3, 2, 4, 0, 0, 0],
    "a token behind padding": [3, 2, 0, 4, 0, 0],
    "nothing": [0, 0, 0, 0, 0, 0],
}


@pytest.mark.parametrize("row", WRONG.values(), ids=list(WRONG))
def test_a_row_that_is_no_sequence(row: list[int]) -> None:
    labels = np.array([[3, 2, 0, 0, 0, 0], row])
    with pytest.raises(StageError) as refused:
        check_token_labels("Here", "words", Reversal.outputs["words"], labels)
    assert str(refused.value).startswith("Here gives 'words' in row 1 ")
    assert str(row) in str(refused.value)


@pytest.mark.parametrize("token", [SIZE, -1])
def test_a_label_outside_the_vocabulary(token: int) -> None:
    labels = np.array([[3, 2, 0], [token, 2, 0]])
    with pytest.raises(StageError, match=f"token {token}, outside the {SIZE}"):
        check_token_labels("Here", "words", Reversal.outputs["words"], labels)


def test_the_labels_of_a_split_are_looked_at() -> None:
    def split(self: Reversal, name: SplitName) -> Any:
        whole = Reversal.split(self, name)
        assert isinstance(whole, InMemory)
        if name == "validation":
            np.asarray(whole.targets["words"])[4] = 3  # never an end token
        return whole

    with pytest.raises(StageError) as refused:
        task_check.check_task(change_task(split=split))
    assert "'validation'" in str(refused.value)
    assert "row 4" in str(refused.value)


@patient
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_tokens_an_end_and_padding_are_right(lengths: list[int]) -> None:
    rows = np.full((len(lengths), LONGEST), WORDS.pad)
    for row, length in zip(rows, lengths, strict=True):
        row[: length + 1] = [*[3] * length, WORDS.end]
    assert find_wrong_row(rows, WORDS) is None


def test_labels_that_a_network_can_never_say_are_refused() -> None:
    """Sources of 1 and 3 tokens allow 2 and 4 tokens at growth (1, 1); the first label has 3."""
    decoding = replace(require_decoding(Numbers()), growth=(1, 1))
    inputs = {"digits": np.array([[5, 0, 0], [5, 6, 7]])}
    labels = np.array([[4, 4, 2, 0], [4, 4, 4, 2]])
    batch = ViewBatch(np.array([700, 3]), inputs, {"words": labels})
    with pytest.raises(StageError, match="sample 700 with 3 tokens, at most 2"):
        check_label_lengths("split('train')", decoding, batch, "words")
    check_label_lengths("split('train')", replace(decoding, growth=(1, 2)), batch, "words")


@pytest.mark.parametrize(
    ("row", "limit", "reason"),
    [
        ([3, 4, 2, 0], 3, None),
        ([3, 4, 5, 0], 3, None),  # it may reach its limit without an end
        ([2, 0, 0, 0], 1, None),
        ([3, 4, 5, 6], 3, "more tokens than its source allows"),
        ([3, 4, 5, 2], 3, "more tokens than its source allows"),
        ([3, 2, 4, 0], 3, "tokens behind its end"),
        ([3, 2, 2, 0], 3, "tokens behind its end"),
        ([3, SIZE, 2, 0], 3, "tokens outside"),
        ([3, -1, 2, 0], 3, "tokens outside"),
    ],
)
def test_the_form_of_generated_tokens(row: list[int], limit: int, reason: str | None) -> None:
    tokens = np.array([[3, 2, 0, 0], row])
    found = find_malformed_row(tokens, np.array([2, limit]), WORDS)
    assert (found is None) == (reason is None)
    assert reason is None or reason in str(found)
    assert reason is None or "in row 1" in str(found)
