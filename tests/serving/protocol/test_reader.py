"""Requests as bodies of HTTP: what is understood, and what is refused in which words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.serving.core.errors import BadRequestError, RequestError, TooLargeError
from attar.serving.core.settings import Settings
from attar.serving.protocol.json_checks import parse_object
from attar.serving.protocol.reader import InferenceReader
from attar.serving.protocol.request import InferenceRequest, OutputRequest
from attar.serving.protocol.signature import Signature
from tests.support.engines.tensor_specs import make_spec

SIGNATURE = Signature(
    {"x": make_spec("x", "FP32", ("batch", 2)), "n": make_spec("n", "INT64", ("batch", "length"))},
    {"y": make_spec("y", "FP32", ("batch", 3)), "z": make_spec("z", "FP32", ("batch",))},
    {"batch": (1, 4), "length": (0, 3)},
)
SETTINGS = Settings(max_tensors=3, max_elements=1000)
READER = InferenceReader(SIGNATURE, SETTINGS)
X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, 3, 4]}
DEEP: list[Any] = []
for _ in range(900):
    DEEP = [DEEP]
N: dict[str, Any] = {"name": "n", "datatype": "INT64", "shape": [2, 1], "data": [[7], [8]]}


def read(content: Any, behind: bytes = b"", length: int | None = None) -> InferenceRequest:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return READER.read(body + behind, len(body) if behind and length is None else length)


def request(x: Any = None, n: Any = None, **more: Any) -> dict[str, Any]:
    """``x`` and ``n`` replace keys of the inputs."""
    return {"inputs": [{**X, **(x or {})}, {**N, **(n or {})}], **more}


@pytest.mark.parametrize("data", [[True, 2.5, 3, 4], [[1, 2], [3, False]]])
def test_a_boolean_is_no_number(data: list[Any]) -> None:
    with pytest.raises(BadRequestError, match="'x' holds what is no FP32: got bool"):
        read(request({"data": data}))


def test_json() -> None:
    infer = read(request(id="a", parameters={"timeout": 1500, "mine": 1}))
    assert infer.inputs["x"].dtype == np.float32
    assert infer.inputs["x"].tolist() == [[1, 2.5], [3, 4]]
    assert infer.inputs["n"].tolist() == [[7], [8]]
    assert (infer.rows, infer.id, infer.timeout) == (2, "a", 0.0015)
    assert infer.parameters == {"timeout": 1500, "mine": 1}
    assert infer.wanted == [OutputRequest("y"), OutputRequest("z")]


@given(st.lists(st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.text()), min_size=2, max_size=5))
def test_what_says_the_same_has_its_own_values_and_id(asked: list[tuple[float, str]]) -> None:
    for value, named in asked:
        infer = read(request({"data": [value] * 4}, id=named))
        assert infer.inputs["x"].tolist() == [[value] * 2] * 2
        assert (infer.id, infer.rows) == (named, 2)


def test_nesting_that_nobody_reads_is_passed_over() -> None:
    assert read(request(other=DEEP)).rows == 2


def test_a_head_in_json_is_understood_once() -> None:
    reader = InferenceReader(SIGNATURE, SETTINGS)
    for value, named in ((1, "a"), (2, "b"), (3, "c")):
        infer = reader.read(json.dumps(request({"data": [value] * 4}, id=named)).encode(), None)
        assert (infer.inputs["x"].tolist(), infer.id) == ([[value] * 2] * 2, named)
    assert reader._remembered.cache_info()[:2] == (2, 1)
    reader.read(json.dumps(request({"shape": [1, 2], "data": [1, 2]}, {"shape": [1, 1], "data": [7]})).encode(), None)
    assert reader._remembered.cache_info()[:2] == (2, 2)


def test_what_nobody_reads_is_no_part_of_the_head() -> None:
    reader = InferenceReader(SIGNATURE, SETTINGS)
    for filler in ("a" * 10_000, [0.5] * 5000, "b"):
        content = request({"other": filler}, other=filler)
        assert reader.read(json.dumps(content).encode(), None).rows == 2
    assert reader._remembered.cache_info()[:2] == (2, 1)


def test_a_long_head_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(text: bytes) -> dict[str, Any]:
        calls.append(len(text))
        return parse_object(text)

    monkeypatch.setattr("attar.serving.protocol.reader.parse_object", counted)
    assert read(request(parameters={"mine": "a" * 10_000})).parameters == {"mine": "a" * 10_000}
    assert len(calls) == 1


def test_inputs_come_in_the_order_of_the_signature() -> None:
    assert list(read({"inputs": [N, X]}).inputs) == ["x", "n"]


def binary(*tensors: np.ndarray[Any, Any], **more: Any) -> tuple[dict[str, Any], bytes]:
    """``x`` and ``n`` as bytes."""
    described = zip((X, N), tensors, strict=True)
    inputs = [
        {**{key: each[key] for key in ("name", "datatype")}, "shape": t.shape, "parameters": {"binary_data_size": t.nbytes}}
        for each, t in described
    ]
    return {"inputs": inputs, **more}, b"".join(tensor.tobytes() for tensor in tensors)


@pytest.mark.parametrize("spaces", range(9))
def test_bytes_behind_the_json_wherever_they_start(spaces: int) -> None:
    x, n = np.array([[1, 2]], np.float32), np.array([[3, 4, 5]])
    content, behind = binary(x, n, outputs=[{"name": "z", "parameters": {"binary_data": True}}, {"name": "y"}])
    for _ in range(2):  # the second time from memory
        infer = read(json.dumps(content).encode() + b" " * spaces, behind)
        assert np.array_equal(infer.inputs["x"], x)
        assert np.array_equal(infer.inputs["n"], n)
        assert all(tensor.flags.aligned for tensor in infer.inputs.values())
        assert infer.wanted == [OutputRequest("z", binary=True), OutputRequest("y")]


def test_aligned_bytes_are_not_copied() -> None:
    x, n = np.array([[1, 2]], np.float32), np.array([[3, 4, 5]])
    content, behind = binary(x, n)
    head = json.dumps(content).encode()
    head += b" " * (-(len(head) + 32) % 8)  # a bytes object's content starts 32 bytes behind its own aligned start
    body = head + behind
    infer = READER.read(body, len(head))
    assert np.shares_memory(infer.inputs["n"], np.frombuffer(body, np.uint8))


def test_all_outputs_as_bytes() -> None:
    assert read(request(parameters={"binary_data_output": True})).wanted == [OutputRequest("y", True), OutputRequest("z", True)]
    part = {"name": "y", "parameters": {"binary_data": False, "classification": 2}}
    assert read(request(parameters={"binary_data_output": True}, outputs=[part])).wanted == [OutputRequest("y", False, 2)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no JSON"),
        (b"[" * 10_000, "no JSON"),
        (b"\xff", "no JSON"),
        (b'{"inputs": NaN}', "no JSON"),
        (b'{"inputs": 1e999}', "no JSON"),
        (b'{"id": "\\ud800"}', "no JSON"),
        (b"[]", "the body is a list"),
        ({}, "inputs is missing"),
        ({"inputs": {}}, "inputs is an object, expected a list of objects"),
        ({"inputs": [1]}, "inputs is a list, expected a list of objects"),
        ({"inputs": [X]}, "the input 'n' is missing"),
        ({"inputs": [X, X, N]}, "an input is there twice"),
        (request(parameters={"mine": DEEP}), "the parameter 'mine' is a list, expected a text, number or boolean"),
        (request(parameters={"timeout": DEEP}), "timeout is a list"),
        (request({"name": DEEP}), "there is no input 'a list'"),
        (request({"datatype": DEEP}), "the datatype a list, expected FP32"),
        (request({"shape": DEEP}), "expected a list of sizes"),
        (request({"shape": [-1, -2]}), "expected a list of sizes"),
        (request({"data": DEEP}), "is not nested as its shape"),
        (request({"parameters": {"binary_data_size": DEEP}}), "a binary_data_size of a list"),
        (request(outputs=[{"name": DEEP}]), "there is no output 'a list'"),
        (request(outputs=[{"name": "y", "parameters": {"classification": DEEP}}]), "classification is a list"),
        (request(id=3), "the id is a number"),
        (request(parameters=[1]), "parameters is a list"),
        (request(parameters={"timeout": "soon"}), "timeout is soon"),
        (request(parameters={"sequence_id": 3}), "sequences need a model that keeps state"),
        (request(parameters={"binary_data_output": 1}), "binary_data_output is a number, expected true or false"),
        (request({"name": "xs"}), "there is no input 'xs'; .*known: n, x"),
        (request({"name": None}), "there is no input 'None'"),
        (request({"datatype": "FP64"}), "'x' has the datatype FP64, expected FP32"),
        (request({"shape": None}), "the shape of 'x' is None"),
        (request({"shape": [2, True]}), "expected a list of sizes"),
        (request({"shape": [2, -2]}), "expected a list of sizes"),
        (request({"shape": [2, 2.0]}), "expected a list of sizes"),
        (request({"shape": [4]}), "'x' has 1 axes, expected 2"),
        (request({"shape": [1, 4]}), r"'x' .*\[batch, 2\], got \[1, 4\]"),
        (request({"shape": [1, 2], "data": [1, 2]}), "'n' .* with batch 1"),
        (request({"shape": [5, 2]}), "'x' has batch = 5, must be 1 to 4"),
        (request({"shape": [0, 2], "data": []}), "batch = 0"),
        (request(n={"shape": [2, 4]}), "'n' has length = 4, must be 0 to 3"),
        (request({"data": [1, 2, 3]}), r"'x' has 3 elements in data, its shape \[2, 2\] asks for 4"),
        (request({"data": None}), "'x' has no list as data"),
        (request({"data": "1234"}), "'x' has no list as data"),
        (request({"data": [[1, 2], [3]]}), "'x' is not nested as its shape"),
        (request({"data": [[1, 2, 3, 4]]}), "'x' is not nested as its shape"),
        (request({"data": [[1, 2], "34"]}), "'x' is not nested as its shape"),
        (request({"data": [[[1], 2], [3, 4]]}), "'x' holds what is no FP32"),
        (request({"data": [1, 2, 3, [4]]}), "'x' holds what is no FP32"),
        (request({"data": [1, 2, 3, "4"]}), "'x' holds what is no FP32"),
        (request({"data": [1, 2, 3, None]}), "'x' holds what is no FP32"),
        (request({"data": [1, 2, 3, 1e300]}), "'x' holds what is no FP32: a number is too large"),
        (request(n={"data": [1, 2.5]}), "'n' holds what is no INT64"),
        (request(n={"data": [1, 2**64 - 1]}), "'n' holds what is no INT64"),
        (request({"parameters": 3}), "the parameters of 'x' are a number"),
        (request({"parameters": {"binary_data_size": -1}}), "a binary_data_size of -1, expected"),
        (request({"parameters": {"binary_data_size": "8"}}), "a binary_data_size of 8, expected"),
        (request({"parameters": {"binary_data_size": 16}}), "a binary_data_size of 16, 0 bytes are left"),
        (request({"parameters": {"shared_memory_region": "a"}}), "shared memory"),
        (request(outputs=[{"name": "w"}]), "there is no output 'w'; .*known: y, z"),
        (request(outputs=[{"name": "y"}, {"name": "y"}]), "an output is asked for twice"),
        (request(outputs="y"), "outputs is a string"),
        (request(outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), "binary_data is a number"),
        (request(outputs=[{"name": "y", "parameters": {"classification": -1}}]), "classification is -1"),
    ],
)
def test_what_is_no_request(content: Any, told: str) -> None:
    with pytest.raises(BadRequestError, match=told):
        read(content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (request({"shape": [2**40, 2**40]}), f"'x' has {2**80} elements, allowed are 1000"),
        ({"inputs": [X, X, X, N]}, "4 inputs are more than the 3 that are allowed"),
    ],
)
def test_what_is_too_large(content: Any, told: str) -> None:
    with pytest.raises(TooLargeError, match=told):
        read(content)


def test_bytes_that_do_not_add_up() -> None:
    content, behind = binary(np.zeros((1, 2), np.float32), np.zeros((1, 1), np.int64))
    with pytest.raises(BadRequestError, match="1 bytes are left over"):
        read(content, behind + b"!")
    with pytest.raises(BadRequestError, match="'n' has a binary_data_size of 8, 7 bytes are left"):
        read(content, behind[:-1])
    with pytest.raises(BadRequestError, match=r"Inference-Header-Content-Length is 10000, the body has"):
        read(content, behind, 10_000)
    content["inputs"][0]["parameters"]["binary_data_size"] = 12
    with pytest.raises(BadRequestError, match=r"'x' has 12 bytes, its shape \[1, 2\] asks for 8"):
        read(content, behind + b"1234")


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4))
KEYS = ("name", "datatype", "shape", "data", "parameters")


@given(key=st.sampled_from(KEYS), value=JSON, top=st.sampled_from(("inputs", "outputs", "parameters", "id")), other=JSON)
def test_no_json_does_more_than_being_refused(key: str, value: Any, top: str, other: Any) -> None:
    for content in (request({key: value}), request(n={key: value}), request(**{top: other}), other):
        try:
            infer = read(content)
        except RequestError:
            continue
        assert {name: tensor.shape[0] for name, tensor in infer.inputs.items()} == {"x": infer.rows, "n": infer.rows}


@given(length=st.integers(0, 400), behind=st.binary(max_size=64))
def test_no_bytes_do_more_than_being_refused(length: int, behind: bytes) -> None:
    content, tensors = binary(np.zeros((1, 2), np.float32), np.zeros((1, 1), np.int64))
    try:
        infer = read(json.dumps(content).encode(), behind, length)
    except RequestError:
        return
    assert len(behind) == len(tensors)
    assert infer.rows == 1


def told(reader: InferenceReader, content: Any, behind: bytes | None) -> Any:
    """All that comes of a request: what was read, down to types and bytes, or what was said."""
    body = json.dumps(content).encode()
    try:
        infer = reader.read(body + (behind or b""), None if behind is None else len(body))
    except RequestError as error:
        return type(error), str(error)
    arrays = {name: (array.dtype, array.shape, array.tobytes()) for name, array in infer.inputs.items()}
    return arrays, infer.rows, infer.wanted, infer.id, repr(infer.parameters)


ALIKE: st.SearchStrategy[Any] = st.sampled_from(
    [0, 0.0, -0.0, 1, 1.0, True, False, None, "1", "", [], {}, [1], 2, 2.0, 10**30, 1e22, "é", "\u2028"]
)
PARAMETERS = st.dictionaries(st.sampled_from(["timeout", "mine", "binary_data_output"]), ALIKE, max_size=2)
CHANGED = st.dictionaries(st.sampled_from(KEYS), ALIKE | st.lists(ALIKE, min_size=2, max_size=4), max_size=2)
ASKED = st.lists(st.fixed_dictionaries({"name": st.sampled_from("yz"), "parameters": PARAMETERS}), max_size=2)
WARM = InferenceReader(SIGNATURE, SETTINGS)


@given(x=CHANGED, n=CHANGED, id=ALIKE, parameters=PARAMETERS, outputs=ASKED, behind=st.none() | st.just(b"") | st.just(bytes(16)))
def test_a_reader_that_remembers_reads_as_a_fresh_one(
    x: dict[str, Any], n: dict[str, Any], behind: bytes | None, **more: Any
) -> None:
    """Heads that look alike, such as 1, 1.0 and true, are not the same."""
    content = request(x, n, **more)
    for _ in range(2):
        assert told(WARM, content, behind) == told(InferenceReader(SIGNATURE, SETTINGS), content, behind)
