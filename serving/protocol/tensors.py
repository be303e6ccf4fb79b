"""Conversion of numpy arrays from and to the protocol's two forms: lists in JSON, and bytes."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from math import prod
from typing import Any

import numpy as np
import orjson

from attar.models.task import Array
from attar.models.tensors import TensorSpec
from attar.serving.core.errors import BadRequestError
from attar.serving.protocol.signature import BYTES, DATATYPES, find_datatype, is_text

DTYPES = {datatype: np.dtype(name).newbyteorder("<") for name, datatype in DATATYPES.items()}
"""The numpy dtype of a datatype; the protocol's bytes are little-endian."""
NAMES = {**{dtype: datatype for datatype, dtype in DTYPES.items()}, np.dtype(object): BYTES}
CODES = {
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
} | {
    "FP16": "d",
    "FP32": "f",
    "FP64": "d",
}
"""Codes by which ``array`` reads a list of numbers: it is as quick as numpy, and takes neither text
nor an integer that does not fit."""
PIECE_VALUES = 2**14
"""Values that are written as JSON at a time: as long, the interpreter is not free for others."""
LENGTH = struct.Struct("<I")  # before each element of BYTES


def read_json_tensor(
    spec: TensorSpec, data: Any, shape: Sequence[int], has_flags: bool = True
) -> Array:
    """Read a list that is flat, or nested as the shape says. Raises BadRequestError.

    ``has_flags``: whether the JSON that it comes from holds ``true`` or ``false`` anywhere.
    """
    flat = flatten_data(spec, data, shape)
    if len(flat) != prod(shape):
        raise BadRequestError(
            f"{spec.name!r} has {len(flat)} elements in data, its shape {list(shape)} "
            f"asks for {prod(shape)}"
        )
    return read_elements(spec, flat, has_flags).reshape(shape)


def flatten_data(spec: TensorSpec, data: Any, shape: Sequence[int]) -> list[Any]:
    if type(data) is not list:
        raise BadRequestError(
            f"{spec.name!r} has no list as data; send one, or binary_data_size and the "
            "bytes behind the JSON"
        )
    if not data or type(data[0]) is not list:
        return data
    nested = list(shape[:1]) == [len(data)]
    for size in shape[1:]:
        nested = nested and all(type(each) is list and len(each) == size for each in data)
        if not nested:
            raise BadRequestError(f"{spec.name!r} is not nested as its shape {list(shape)} says")
        data = list(chain.from_iterable(data))
    return list(data)


def read_elements(spec: TensorSpec, flat: list[Any], has_flags: bool = True) -> Array:
    """Return ``[N]``. Raises BadRequestError for a value of another type.

    Unless ``has_flags`` there is no boolean among them.
    """
    try:
        return convert_elements(spec, flat, has_flags)
    except (TypeError, OverflowError) as error:
        raise BadRequestError(
            f"{spec.name!r} holds what is no {find_datatype(spec)}: {error}"
        ) from error


def convert_elements(spec: TensorSpec, flat: list[Any], has_flags: bool) -> Array:
    """Return ``[N]``. Raises TypeError or OverflowError for a value of another type."""
    if find_datatype(spec) == BYTES:
        return make_object_array(
            [
                check_type(each, str) if is_text(spec) else check_type(each, str).encode()
                for each in flat
            ]
        )
    if find_datatype(spec) == "BOOL":
        return np.array([check_type(each, bool) for each in flat], bool)
    if has_flags and bool in set(map(type, flat)):  # array takes them for 1 and 0
        raise TypeError("got bool")
    made: Array = np.frombuffer(
        array(CODES[find_datatype(spec)], flat), dtype=CODES[find_datatype(spec)]
    )
    if made.dtype.kind == "f":
        with np.errstate(over="ignore"):  # checked below
            made = made.astype(DTYPES[find_datatype(spec)], copy=False)
        if not np.isfinite(made).all():
            raise OverflowError("a number is too large")
    return made


def check_type(each: Any, kind: type) -> Any:
    if type(each) is not kind:
        raise TypeError(f"got {type(each).__name__}")
    return each


def make_object_array(rows: Sequence[str | bytes]) -> Array:
    made = np.empty(len(rows), object)
    made[:] = rows
    return made


def read_binary_tensor(spec: TensorSpec, view: memoryview, shape: Sequence[int]) -> Array:
    """Return a read-only view where the bytes lie aligned, else a copy.

    Raises BadRequestError unless they are exactly the tensor's.
    """
    if find_datatype(spec) == BYTES:
        return read_strings(spec, view, prod(shape)).reshape(shape)
    dtype = DTYPES[find_datatype(spec)]
    if len(view) != prod(shape) * dtype.itemsize:
        raise BadRequestError(
            f"{spec.name!r} has {len(view)} bytes, its shape {list(shape)} asks for "
            f"{prod(shape) * dtype.itemsize}"
        )
    made: Array = np.frombuffer(view, dtype)
    if dtype.kind == "b" and np.frombuffer(view, np.uint8).max(initial=0) > 1:
        raise BadRequestError(f"{spec.name!r} holds what is no BOOL: a byte is 0 or 1")
    return (made if made.flags.aligned else made.copy()).reshape(shape)


def read_strings(spec: TensorSpec, view: memoryview, count: int) -> Array:
    try:
        rows = [
            str(each, "utf-8") if is_text(spec) else bytes(each)
            for each in islice(split_strings(view), count + 1)
        ]
    except (struct.error, UnicodeDecodeError) as error:
        raise BadRequestError(
            f"{spec.name!r} holds no {'UTF-8 ' * is_text(spec)}BYTES behind their lengths: {error}"
        ) from error
    if len(rows) != count:
        found = len(rows) if len(rows) < count else "more"
        raise BadRequestError(
            f"{spec.name!r} has {found} elements in its bytes, its shape asks for {count}"
        )
    return make_object_array(rows)


def split_strings(view: memoryview) -> Iterator[memoryview]:
    """Yield each element without its length. Raises struct.error where the bytes end too early."""
    start = 0
    while start < len(view):
        (length,) = LENGTH.unpack_from(view, start)
        start += LENGTH.size + length
        if start > len(view):
            raise struct.error(f"an element of {length} bytes ends behind the tensor")
        yield view[start - length : start]


def write_json_tensor(tensor: Array) -> Any:
    """Return a flat list or array, for orjson; a long one is JSON already, written in pieces."""
    flat = np.ascontiguousarray(tensor).ravel()
    if flat.size <= PIECE_VALUES:
        return write_json_piece(flat)
    pieces = (flat[start : start + PIECE_VALUES] for start in range(0, flat.size, PIECE_VALUES))
    written = [
        orjson.dumps(write_json_piece(piece), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        for piece in pieces
    ]
    return orjson.Fragment(b"[" + b",".join(written) + b"]")


def write_json_piece(flat: Array) -> Any:
    if flat.dtype == object:
        return [each.decode("utf-8", "replace") for each in flat.tolist()]
    return flat


def write_binary_tensor(tensor: Array) -> memoryview:
    """Return the bytes of a tensor, without a copy if it is contiguous."""
    if tensor.dtype == object:
        return memoryview(
            b"".join(LENGTH.pack(len(each)) + each for each in tensor.ravel().tolist())
        )
    made = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
    return made.reshape(-1).view(np.uint8).data


def find_array_datatype(tensor: Array) -> str:
    """Return the protocol's name of what an array holds."""
    return NAMES[tensor.dtype]
