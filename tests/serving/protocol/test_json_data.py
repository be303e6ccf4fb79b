"""Data in JSON without an object a number: what is read, against orjson's reading of the whole, and the memory that it takes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attar.models.task import Array
from attar.models.tensors import TensorSpec
from attar.serving.core.errors import BadRequestError, RequestError, TooLargeError
from attar.serving.core.settings import Settings
from attar.serving.protocol import json_data
from attar.serving.protocol.json_checks import check_data_once
from attar.serving.protocol.json_data import SHORT_BYTES, JsonArray, split_data
from attar.serving.protocol.reader import InferenceReader
from attar.serving.protocol.signature import BYTES, Signature
from attar.serving.protocol.sizes import largest_body
from attar.serving.protocol.tensors import DTYPES, read_json_tensor
from tests.support.engines.tensor_specs import make_spec

OUTPUTS = {"y": make_spec("y", "FP32", ("batch", 3))}
PICTURES = Signature({"x": make_spec("x", "FP32", ("batch", 3, 224, 224))}, OUTPUTS, {"batch": (1, 32)})
TEXTS = Signature({"x": make_spec("x", BYTES, ("batch",), text=True)}, OUTPUTS, {"batch": (1, 8)})
SETTINGS = Settings()
WRITTEN = [
    *("0", "-0", "-0.0", "1", "1.0", "2.5", "1e5", "0.1e1", "-7", "127", "128", "-129", "255", "256", "65504", "65520", "1e39"),
    *("16777217", "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    *("18446744073709551615", "18446744073709551616", "-9223372036854775809", "1e400", "1e-400", "5e-324", "0.1"),
    *("1.7976931348623157e308", "3.4028236e38", "NaN", "Infinity", "-", "+1", "01", "1.", ".5", "1e", "true", "false", "null"),
    *("", " ", " 3 ", "\t4\n", "1 2", "[1]", "]", "[]", '"a"', "{}", "1\f", "\x00", "é", "1][2", "1],[2"),
]
"""Elements of arrays, most of them no number that every datatype holds."""


def outcome(read: Callable[[], Array]) -> Any:
    """What was read, down to its bytes, or that it was refused."""
    try:
        made = read()
    except RequestError:
        return "refused"
    return made.dtype, made.shape, made.tobytes()


def by_orjson(declared: TensorSpec, text: str, shape: list[int]) -> Array:
    try:
        return read_json_tensor(declared, orjson.loads(text), shape)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(str(error)) from error


NUMBERS = st.lists(st.sampled_from(WRITTEN) | st.floats(allow_nan=False).map(json.dumps) | st.integers().map(str), max_size=6)


@given(st.sampled_from(sorted(DTYPES)), NUMBERS, st.integers(0, 40), st.sampled_from([2**17, 41]))
@example("INT64", ["9007199254740993"], 30, 41)
@example("FP32", ["1", ""], 0, 41)
def test_an_array_is_read_as_orjson_reads_it(datatype: str, elements: list[str], more: int, piece: int) -> None:
    """In one piece and in many."""
    declared = make_spec("x", datatype, ("batch",))
    text = f"[{','.join([*elements, *['1'] * more])}]"
    body = b"before" + text.encode() + b"behind"
    with patch.object(json_data, "PIECE_BYTES", piece):
        for count in (len(elements) + more, len(elements) + more + 1):
            got = outcome(lambda: JsonArray(body, 6, len(body) - 6).read(declared, [count]))  # noqa: B023  # called at once
            assert got == outcome(lambda: by_orjson(declared, text, [count]))  # noqa: B023


SHAPES = st.lists(st.integers(0, 3), min_size=1, max_size=4)


@given(SHAPES, st.data(), st.sampled_from([2**17, 16]))
def test_nested_arrays_are_read_as_orjson_reads_them(shape: list[int], data: st.DataObject, piece: int) -> None:
    """As they are, and with one character gone, doubled or replaced."""
    declared = make_spec("x", "FP32", tuple(f"axis {i}" for i in range(len(shape))))
    text = json.dumps(np.arange(np.prod(shape)).reshape(shape).tolist())
    place = data.draw(st.integers(1, len(text) - 1))
    changed = text[:place] + data.draw(st.sampled_from(["", "[", "]", ",", "0", " ", "[]", "],["])) + text[place + 1 :]
    with patch.object(json_data, "PIECE_BYTES", piece):
        for each in (text, changed):
            if each.endswith("]"):
                got = outcome(lambda: JsonArray(each.encode(), 0, len(each.encode())).read(declared, shape))  # noqa: B023
                assert got == outcome(lambda: by_orjson(declared, each, shape))  # noqa: B023  # called at once


@pytest.mark.parametrize("shape", [[1, 1, 2**18, 1], [1, 2, 2**16, 2, 1], [2**18, 0]])
def test_nesting_is_checked_in_pieces(shape: list[int]) -> None:
    """To compare an array of many short rows takes no memory for each row."""
    body = json.dumps(np.zeros(shape, np.uint8).tolist(), separators=(",", ":")).encode()
    declared = make_spec("x", "UINT8", tuple(f"axis {i}" for i in range(len(shape))))
    tracemalloc.start()
    try:
        assert JsonArray(body, 0, len(body)).read(declared, shape).shape == tuple(shape)
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
        with pytest.raises(BadRequestError, match="not nested"):
            JsonArray(body, 0, len(body)).read(declared, [*shape[:-1], shape[-1] + 1])
    finally:
        tracemalloc.stop()


def request(data: Any, shape: list[int], **more: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}], **more}).encode()


VALUES = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)


@pytest.mark.parametrize("data", [VALUES.ravel().tolist(), VALUES.tolist()])
def test_a_long_body_says_what_a_short_one_says(data: Any) -> None:
    infer = InferenceReader(PICTURES, SETTINGS).read(request(data, [1, 3, 224, 224], id="a", parameters={"mine": 1}), None)
    assert np.array_equal(infer.inputs["x"], VALUES)
    assert (infer.id, infer.parameters, infer.rows) == ("a", {"mine": 1}, 1)


@pytest.mark.parametrize("indent", [None, 1])
def test_the_largest_request_is_within_the_limit(indent: int | None) -> None:
    """Each number as long as one can be, nested; and each on a line of its own where it is flat."""
    small = Signature({"x": make_spec("x", "FP32", ("batch", 3, 2, 1))}, OUTPUTS, {"batch": (1, 8)})
    values = np.full((8, 3, 2, 1), -1.1754943508222875e-38)
    content = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [8, 3, 2, 1], "data": values.tolist()}]}
    body = json.dumps(content, indent=indent).encode()
    assert len(body) < largest_body(small, SETTINGS) == SHORT_BYTES + 48 * 26 + (8 + 24 + 48 + 1) * 4
    assert largest_body(small, Settings(max_body=7)) == 7


@pytest.mark.parametrize("limit", [TEXTS, PICTURES])
def test_texts_of_a_long_body(limit: Signature) -> None:
    texts = ['né"\\' * 4000, "b\\", "", "[1],{}", '"data": [1]'] * 2
    body = json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [8], "data": texts[:8]}]}).encode()
    assert len(body) > SHORT_BYTES
    if limit is TEXTS:
        assert InferenceReader(TEXTS, SETTINGS).read(body, None).inputs["x"].tolist() == texts[:8]
    else:
        with pytest.raises(TooLargeError, match="more than 0 texts, which is more than any input takes"):
            InferenceReader(PICTURES, SETTINGS).read(body, None)


LONG = b"1," * SHORT_BYTES + b"1"
START = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3,224,224],"data":'
HOSTILE = {
    "objects": (b'{"inputs":[' + b"{}," * SHORT_BYTES + b"{}]}", TooLargeError, "the JSON beside the data is over 65536 bytes"),
    "no data": (b" " * SHORT_BYTES + b"{}", TooLargeError, "the JSON beside the data"),
    "keys": (b'{"data"' * SHORT_BYTES, TooLargeError, "the JSON beside the data"),
    "brackets": (START + b"[" * SHORT_BYTES * 2 + b"]}]}", BadRequestError, "is not nested as its shape"),
    "unclosed": (START + b"[" + LONG, TooLargeError, "the JSON beside the data"),
    "few": (START + b"[" + LONG + b"]}]}", BadRequestError, "65537 elements in data, its shape .* asks for 150528"),
    "many": (START + b"[" + LONG * 3 + b"]}]}", BadRequestError, "no JSON|asks for 150528"),
    "one number": (START + b"[" + b"1" * SHORT_BYTES * 8 + b"]}]}", BadRequestError, "longer than a number can be"),
    "spaces": (START + b"[" + b" " * SHORT_BYTES * 8 + b"1]}]}", BadRequestError, "longer than a number can be"),
    "a hole": (START + b"[" + LONG + b",," + LONG + b"]}]}", BadRequestError, "no JSON"),
    "objects inside": (START + b"[" + LONG + b",{}]}]}", TooLargeError, "the JSON beside the data"),
    "rubbish behind": (START + b"[" + LONG + b"]x}]}", BadRequestError, "no JSON"),
    "twice": (START + b"[" + LONG + b'],"data":[1]}]}', BadRequestError, "data is there twice, or where no input is"),
    "elsewhere": (START + b"[" + LONG + b']}],"parameters":{"data":[1]}}', BadRequestError, "data is there twice, or where"),
    "texts": (START + b'["a","' + b"b" * SHORT_BYTES + b'"]}]}', TooLargeError, "more than 0 texts"),
    "a number for data": (START + LONG[:9] + b"}]}", BadRequestError, "no JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_long_body_may_not_hold(name: str) -> None:
    body, error, told = HOSTILE[name]
    with pytest.raises(error, match=told):
        InferenceReader(PICTURES, SETTINGS).read(body, None)


def test_data_twice_is_refused_in_a_short_body_too() -> None:
    body = request([1], [1, 3, 224, 224]).replace(b'"data"', b'"data": [2], "data"')
    with pytest.raises(BadRequestError, match="data is there twice"):
        InferenceReader(PICTURES, SETTINGS).read(body, None)
    beside, cuts = split_data(request([1], [1]), 0)
    assert len(cuts) == 1
    with pytest.raises(
        BadRequestError, match="has no list as data"
    ):  # what stands for an array stands for none in another request
        InferenceReader(PICTURES, SETTINGS).read(request(json.loads(beside)["inputs"][0]["data"], [1, 3, 224, 224]), None)


SMALL = Signature(
    {"data": make_spec("data", "FP32", ("batch", 1)), "t": make_spec("t", BYTES, ("batch",), text=True)},
    OUTPUTS,
    {"batch": (1, 8)},
)


@pytest.mark.parametrize("behind", [None, b""])
@pytest.mark.parametrize(
    "twice",
    [
        b'"data": [[1]], "data": [[2]]',
        b'"data": [[1]], "data" : [2]',
        b'"d\\u0061ta": [1], "data": [2]',
        b'"data": [[1]], "\\u0064ata": [[2]]',
    ],
)
def test_data_twice_is_refused_however_it_is_written(twice: bytes, behind: bytes | None) -> None:
    """Also where bytes may follow the JSON, which is remembered then."""
    text = {"name": "t", "datatype": "BYTES", "shape": [1], "data": ['\\u0061 "data": data'], "parameters": {}}
    body = json.dumps({"inputs": [{"name": "data", "datatype": "FP32", "shape": [1, 1], "data": [[2]]}, text]}).encode()
    reader = InferenceReader(SMALL, SETTINGS)
    length = None if behind is None else len(body)
    assert reader.read(body, length).inputs["data"] == 2
    hostile = body.replace(b'"data": [[2]]', twice)
    with pytest.raises(BadRequestError, match="data is there twice"):
        reader.read(hostile, length and len(hostile))


def test_nesting_beyond_what_is_read_again_is_refused() -> None:
    with pytest.raises(BadRequestError, match="nested too deeply"):
        check_data_once(b'{"data": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0)


def test_a_text_that_is_there_twice_is_refused() -> None:
    body = json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["b"]}]}).encode()
    with pytest.raises(BadRequestError, match="data is there twice"):
        InferenceReader(TEXTS, SETTINGS).read(body.replace(b'"data"', b'"data": ["a"], "data"'), None)


def test_numbers_take_the_memory_of_their_tensor() -> None:
    """A list of them takes 32 bytes each, eight times as many."""
    count = 8 * 3 * 224 * 224
    body = START.replace(b"[1,3", b"[8,3") + b"[" + b",".join([b"0.25"] * count) + b"]}]}"
    tracemalloc.start()
    try:
        assert InferenceReader(PICTURES, SETTINGS).read(body, None).rows == 8
        assert tracemalloc.get_traced_memory()[1] < 4 * count * 1.5
    finally:
        tracemalloc.stop()
