"""Ragged: what safetensors cannot hold comes back as it was, and what was spoiled does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from attar.bundle import ragged
from attar.models.checks import content
from attar.pipeline.core.errors import StageError

PICTURES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3)).map(lambda shape: np.full(shape, shape[0], np.uint8))


def objects(each: list[Any]) -> Any:
    made = np.empty(len(each), object)
    for row, one in enumerate(each):
        made[row] = one
    return made


@given(st.one_of(*(st.lists(kind, min_size=1, max_size=5) for kind in (st.text(), st.binary(), PICTURES))))
def test_there_and_back_through_a_file(rows: list[Any]) -> None:
    array = objects(rows)
    back = ragged.decode_samples(load(save(ragged.encode_samples("raw.x", array))))
    assert list(back) == ["raw.x"]
    assert content.has_same_content(back["raw.x"], array)
    assert [type(row) for row in back["raw.x"]] == [type(row) for row in rows]


def test_by_hand() -> None:
    made = ragged.encode_samples("raw.x", np.array(["é", "", "sun"]))
    assert {name: array.tolist() for name, array in made.items()} == {
        "raw.x:text": [[0xC3, 0xA9, 0], [0, 0, 0], [115, 117, 110]],
        "raw.x:shape": [[2], [0], [3]],
    }


def test_numbers_pass() -> None:
    x = np.arange(6).reshape(2, 3)
    assert ragged.encode_samples("raw.x", x)["raw.x"].tolist() == x.tolist()
    assert ragged.decode_samples({"raw.x": x, "engine.y:text": x})["engine.y:text"] is x  # half a pair is none


@pytest.mark.parametrize(
    "rows", [["a", b"b"], [1], [None], [np.zeros((1, 1)), np.zeros((2, 1))], [np.zeros((1, 1), np.uint8), np.zeros(2, np.uint8)]]
)
def test_other_objects_are_refused(rows: list[Any]) -> None:
    with pytest.raises(StageError, match="golden requests cannot hold 'x': raw samples must be numbers, or an array"):
        ragged.encode_samples("raw.x", objects(rows))
    with pytest.raises(StageError, match="cannot hold 'x'"):
        ragged.encode_samples("raw.x", np.array([["two"], ["axes"]]))


@pytest.mark.parametrize(
    ("kind", "matrix", "shapes", "told"),
    [
        ("text", np.zeros((1, 4), np.int8), [[4]], r"text as int8 \[1, 4\] and int64 \[1, 1\]"),
        ("text", np.zeros((2, 4), np.uint8), [[4]], r"and int64 \[1, 1\]"),
        ("text", np.zeros(4, np.uint8), [[4]], r"uint8 \[4\]"),
        ("text", np.zeros((1, 4), np.uint8), [[5]], r"0 .*\[5\] .*4 bytes"),
        ("bytes", np.zeros((1, 4), np.uint8), [[-1]], r"sample 0 of shape \[-1\]"),
        ("bytes", np.zeros((1, 4), np.uint8), [[2, 2]], r"sample 0 .*\[2, 2\]"),
        ("bytes", np.zeros((1, 4), np.uint8), [[]], r"int64 \[1, 0\]"),
        ("uint8", np.zeros((1, 4), np.uint8), [[2**62, 4]], r"0 .*\[4611686018427387904, 4\]"),
        ("text", np.full((1, 4), 255, np.uint8), [[4]], "can't decode byte 0xff"),
    ],
)
def test_a_pair_that_does_not_fit(kind: str, matrix: Any, shapes: list[list[int]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ragged.decode_samples({f"raw.x:{kind}": matrix, "raw.x:shape": np.array(shapes, np.int64)})
