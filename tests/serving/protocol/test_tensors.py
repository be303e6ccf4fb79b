"""Tensors to and from JSON and bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from attar.models.task import Array
from attar.models.tensors import TensorSpec
from attar.serving.core.errors import BadRequestError
from attar.serving.protocol.tensors import (
    CODES,
    DTYPES,
    find_array_datatype,
    make_object_array,
    read_binary_tensor,
    read_json_tensor,
    write_binary_tensor,
    write_json_tensor,
)
from tests.support.engines.tensor_specs import make_spec


def declared(name: str, text: bool = False) -> TensorSpec:
    return make_spec("x", name, ("batch", "length"), text)


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None
    made: Array = draw(arrays.arrays(dtype, shape, elements=elements))
    return made


@given(tensors())
def test_there_and_back(tensor: Array) -> None:
    told = declared(find_array_datatype(tensor))
    again = read_binary_tensor(told, write_binary_tensor(tensor), tensor.shape)
    assert again.dtype == tensor.dtype
    assert np.array_equal(again, tensor)
    flat = orjson.loads(orjson.dumps(write_json_tensor(tensor), option=orjson.OPT_SERIALIZE_NUMPY))
    for data in (flat, np.array(flat, object).reshape(tensor.shape).tolist()):
        again = read_json_tensor(told, data, tensor.shape)
        assert (again.dtype, again.shape) == (tensor.dtype, tensor.shape)
        assert np.array_equal(again, tensor)


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_bytes_there_and_back(rows: list[bytes]) -> None:
    tensor = make_object_array(rows)
    assert find_array_datatype(tensor) == "BYTES"
    assert read_binary_tensor(declared("BYTES"), write_binary_tensor(tensor), tensor.shape).tolist() == rows


def test_bytes_as_they_travel() -> None:
    """Four bytes of length, little-endian, before each element."""
    tensor = make_object_array([b"ab", b"", "né".encode()])
    assert bytes(write_binary_tensor(tensor)) == b"\x02\0\0\0ab\0\0\0\0\x03\0\0\0n\xc3\xa9"
    assert write_json_tensor(tensor) == ["ab", "", "né"]
    text = read_binary_tensor(declared("BYTES", text=True), write_binary_tensor(tensor), [3])
    assert text.tolist() == ["ab", "", "né"]
    assert read_json_tensor(declared("BYTES", text=True), ["a", "né"], [2]).tolist() == ["a", "né"]
    assert read_json_tensor(declared("BYTES"), [["a"], ["né"]], [2, 1]).tolist() == [[b"a"], ["né".encode()]]


def test_a_view_that_does_not_lie_in_one_piece() -> None:
    tensor = np.arange(6, dtype=np.int16).reshape(2, 3).T
    assert bytes(write_binary_tensor(tensor)) == np.ascontiguousarray(tensor).tobytes()
    assert list(write_json_tensor(tensor)) == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("BOOL", [0, 1], "no BOOL: got int"),
        ("INT8", [1, 128], "no INT8: signed char is greater than maximum"),
        ("UINT8", [1, -1], "no UINT8"),
        ("UINT64", [1, 2**64], "no UINT64"),
        ("FP16", [1, 7e4], "no FP16: a number is too large"),
        ("FP64", [1, 10**400], "no FP64"),
        ("BYTES", [1, "a"], "no BYTES: got int"),
        ("INT32", [1, "1"], "no INT32"),
        *((name, [1, True], f"no {name}: got bool") for name in CODES),
    ],
)
def test_what_a_datatype_does_not_hold(name: str, data: list[Any], told: str) -> None:
    with pytest.raises(BadRequestError, match=told):
        read_json_tensor(declared(name), data, [2])


@pytest.mark.parametrize(
    ("name", "content", "text", "told"),
    [
        ("BOOL", b"\0\2", False, "no BOOL: a byte is 0 or 1"),
        ("INT16", b"\0\0", False, r"2 bytes, its shape \[2\] asks for 4"),
        ("BYTES", b"\1\0\0\0a", False, "1 elements in its bytes"),
        ("BYTES", b"\1\0\0\0a\1\0\0", False, "holds no BYTES behind their lengths"),
        ("BYTES", b"\1\0\0\0a\xff\xff\xff\xffb", False, "an element of 4294967295 bytes ends behind the tensor"),
        ("BYTES", b"\1\0\0\0a\1\0\0\0\xff", True, "holds no UTF-8 BYTES"),
    ],
)
def test_bytes_that_are_no_tensor(name: str, content: bytes, text: bool, told: str) -> None:
    with pytest.raises(BadRequestError, match=told):
        read_binary_tensor(declared(name, text), memoryview(content), [2])


def test_a_scalar_has_no_list_to_nest() -> None:
    assert read_json_tensor(make_spec("a", "FP32", ()), [2.5], []).tolist() == 2.5
    with pytest.raises(BadRequestError, match="holds what is no FP32: must be real number, not list"):
        read_json_tensor(make_spec("a", "FP32", ()), [[2.5]], [])


def test_no_more_elements_are_read_than_the_shape_has() -> None:
    """Two million empty ones would keep everybody else waiting."""
    with pytest.raises(BadRequestError, match="has more elements in its bytes, its shape asks for 2"):
        read_binary_tensor(declared("BYTES"), memoryview(bytes(8_000_000)), [2])
