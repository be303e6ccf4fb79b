"""Answers: what was asked for, in the order and form in which it was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from attar.models.task import Array
from attar.serving.core.errors import BadRequestError
from attar.serving.protocol import response, tensors
from attar.serving.protocol.request import InferenceRequest, OutputRequest
from attar.serving.protocol.response import build_response, find_top_classes, is_quick, write_response

FOUND: dict[str, Array] = {"y": np.array([[1, 3, 2]], np.float32), "z": np.array([7], np.int64)}


def infer(*wanted: OutputRequest, **more: Any) -> InferenceRequest:
    return InferenceRequest({}, 1, wanted, **more)


def test_json() -> None:
    asked = infer(OutputRequest("z"), OutputRequest("y"), id="7", parameters={"timeout": 5, "mine": True})
    (text,), length = write_response(build_response(asked, FOUND, "m", "1"))
    assert length is None
    assert orjson.loads(text) == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "parameters": {"mine": True},
        "outputs": [
            {"name": "z", "datatype": "INT64", "shape": [1], "data": [7]},
            {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [1, 3, 2]},
        ],
    }


def test_bytes_follow_in_the_order_of_the_outputs_and_are_not_copied() -> None:
    pieces, length = write_response(build_response(infer(OutputRequest("z", True), OutputRequest("y", True)), FOUND, "m", "1"))
    assert length == len(pieces[0])
    assert [each["parameters"] for each in orjson.loads(pieces[0])["outputs"]] == [
        {"binary_data_size": 8},
        {"binary_data_size": 12},
    ]
    assert [bytes(piece) for piece in pieces[1:]] == [FOUND["z"].tobytes(), FOUND["y"].tobytes()]
    assert np.shares_memory(np.frombuffer(pieces[2], np.uint8), FOUND["y"])


def test_both_forms_in_one_answer() -> None:
    pieces, _ = write_response(build_response(infer(OutputRequest("z", True), OutputRequest("y")), FOUND, "m", "1"))
    first, second = orjson.loads(pieces[0])["outputs"]
    assert ("data" in first, second["data"], len(pieces)) == (False, [1, 3, 2], 2)


def test_classification() -> None:
    values = np.array([[0.5, -1, 2], [3, 3, 1]], np.float32)
    assert find_top_classes(values, 2, ["a", "b", "c"]).tolist() == [
        [b"2.000000:2:c", b"0.500000:0:a"],
        [b"3.000000:0:a", b"3.000000:1:b"],
    ]
    assert find_top_classes(values, 9, []).shape == (2, 3)
    assert find_top_classes(values, 1, ["a"]).tolist() == [[b"2.000000:2"], [b"3.000000:0"]]
    made = build_response(infer(OutputRequest("y", classes=1)), FOUND, "m", "1", ["a", "b", "c"])
    assert orjson.loads(write_response(made)[0][0])["outputs"] == [
        {"name": "y", "datatype": "BYTES", "shape": [1, 1], "data": ["3.000000:1:b"]}
    ]
    assert find_top_classes(np.zeros((2, 3, 0)), 1, []).shape == (2, 3, 0)
    with pytest.raises(BadRequestError, match="an axis of classes"):
        find_top_classes(np.array(1.0), 1, [])


def test_long_outputs_are_written_as_short_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.random.default_rng(0).integers(0, 3, (4, 5, 3)).astype(np.float32)
    wanted = infer(OutputRequest("y"), OutputRequest("z", classes=2))
    found: dict[str, Array] = {"y": wide, "z": wide}
    whole = [write_response(build_response(wanted, found, "m", "1"))]
    for size in (1, 4, 7, 60):
        monkeypatch.setattr(tensors, "PIECE_VALUES", size)
        monkeypatch.setattr(response, "PIECE_VALUES", size)
        whole.append(write_response(build_response(wanted, found, "m", "1")))
    assert all(each == whole[0] for each in whole)


def test_what_is_written_on_the_event_loop() -> None:
    found: dict[str, Array] = {"y": np.zeros((20, 1000), np.float32)}
    for wanted, quick in (
        (OutputRequest("y"), False),
        (OutputRequest("y", binary=True), True),
        (OutputRequest("y", binary=True, classes=1), False),
    ):
        assert is_quick(infer(wanted), found, has_json=True) is quick
    assert is_quick(infer(OutputRequest("y")), found, has_json=False)
    few: dict[str, Array] = {"y": found["y"][:3]}
    assert is_quick(infer(OutputRequest("y", classes=5)), few, has_json=False)
    assert not is_quick(infer(OutputRequest("y", classes=1000)), few, has_json=False)
