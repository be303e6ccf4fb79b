"""The typed contents of a tensor over gRPC: elements that are not sent as raw bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from attar.models.task import Array
from attar.serving.core.errors import BadRequestError
from attar.serving.grpc.messages import InferTensorContents
from attar.serving.grpc.wire import write_field
from attar.serving.protocol.reader import InputDescription
from attar.serving.protocol.signature import BYTES, find_datatype, is_text
from attar.serving.protocol.tensors import DTYPES, make_object_array

FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Name of the field for each datatype. The protocol has none for FP16."""
FLOATS: Mapping[str, np.dtype[Any]] = {
    "fp32_contents": np.dtype("<f4"),
    "fp64_contents": np.dtype("<f8"),
}
"""Fields whose elements are written as numpy has them; other numbers are varints."""
VARINT_BYTES = 10
"""Longest number on the wire."""
PIECE_BYTES = 2**14
"""Size of the pieces in which varints become Python objects: a list of all would take ten times
the memory of the array."""


def read_contents(part: InputDescription, contents: Any) -> Array:
    """Read an InferTensorContents, or the `Contents` of a split message.

    Raises BadRequestError for values of another type, or not as many as the shape says.
    """
    spec, shape, datatype = part.spec, part.shape, find_datatype(part.spec)
    field = FIELDS.get(datatype)
    if field is None:
        raise BadRequestError(
            f"{spec.name!r} is {datatype}, which has no contents in gRPC; send raw_input_contents"
        )
    values = find_values(field, contents)
    if len(values) != prod(shape):
        raise BadRequestError(
            f"{spec.name!r} has {len(values)} {field}, its shape {list(shape)} asks for "
            f"{prod(shape)}"
        )
    try:
        if datatype == BYTES:
            texts = [bytes(each).decode() if is_text(spec) else bytes(each) for each in values]
            return make_object_array(texts).reshape(shape)
        return fill_array(DTYPES[datatype], len(values), iterate_pieces(values)).reshape(shape)
    except (OverflowError, ValueError, DecodeError) as error:
        raise BadRequestError(f"{spec.name!r} holds what is no {datatype}: {error}") from error


def find_values(field: str, contents: Any) -> Any:
    """Return the elements in a field: a sequence, or `PackedValues`."""
    if not isinstance(contents, dict):
        return getattr(contents, field)
    number = InferTensorContents.DESCRIPTOR.fields_by_name[field].number
    pieces: list[memoryview] = contents.get(number, [])
    return pieces if field == FIELDS[BYTES] else PackedValues(field, number, pieces)


def iterate_pieces(values: Any) -> Iterable[Any]:
    return values.iterate_pieces() if isinstance(values, PackedValues) else [list(values)]


def fill_array(dtype: np.dtype[Any], count: int, pieces: Iterable[Any]) -> Array:
    """Return an array of all pieces.

    Raises OverflowError for a number that does not fit, and ValueError for a broken piece.
    """
    array, filled = np.zeros(count, dtype), 0
    for piece in pieces:
        array[filled : filled + len(piece)] = np.array(piece, dtype)
        filled += len(piece)
    return array


class PackedValues:
    """Numbers as they are on the wire."""

    def __init__(self, field: str, number: int, pieces: Sequence[memoryview]) -> None:
        self._field, self._number, self._pieces = field, number, pieces

    def __len__(self) -> int:
        if dtype := FLOATS.get(self._field):
            return sum(len(piece) // dtype.itemsize for piece in self._pieces)
        count = 0
        for piece in self._pieces:
            for start in range(0, len(piece), PIECE_BYTES):
                part = np.frombuffer(piece[start : start + PIECE_BYTES], np.uint8)
                count += int(np.count_nonzero(part < 0x80))  # the last byte of each number
        return count

    def iterate_pieces(self) -> Iterator[Any]:
        """Yield arrays, or lists of Python numbers."""
        if dtype := FLOATS.get(self._field):
            yield from (np.frombuffer(piece, dtype) for piece in self._pieces)
            return
        for piece in self._pieces:
            for part in cut_behind_varints(piece):
                decoded = InferTensorContents.FromString(write_field(self._number, part))
                yield list(getattr(decoded, self._field))


def cut_behind_varints(piece: memoryview) -> Iterator[memoryview]:
    """Yield parts of about ``PIECE_BYTES`` that end with a whole number, if it is a valid one."""
    start = 0
    while start < len(piece):
        end = min(start + PIECE_BYTES, len(piece))
        longest = min(end + VARINT_BYTES, len(piece))
        while end < longest and piece[end - 1] >= 0x80:
            end += 1
        yield piece[start:end]
        start = end
