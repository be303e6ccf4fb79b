"""JSON data: the arrays under ``data`` are cut out of a body before the rest of it is parsed.

What is left is short, whatever the body holds. The arrays are read in pieces, without an object for
each number, so that their memory is that of the tensor and the interpreter is free for others
between two pieces.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, TypeAlias

import numpy as np

from attar.models.task import Array
from attar.models.tensors import TensorSpec
from attar.serving.core.errors import BadRequestError, TooLargeError
from attar.serving.protocol.json_numbers import Body, parse_json, read_piece
from attar.serving.protocol.signature import find_datatype
from attar.serving.protocol.tensors import DTYPES

SHORT_BYTES = 2**16
"""Longest body that is read on the event loop, and longest JSON beside the data of any body."""
PIECE_BYTES = 2**17
"""Size of the pieces in which numbers are parsed."""
TEXT_BYTES = 2**20
"""Limit of one text in a body that is not short."""
KEY = b'"data"'
OPENING = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*\[")
SPACE = re.compile(rb"[ \t\r\n]*")
TEXT = re.compile(rb'[ \t\r\n]*("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*([,\]])', re.DOTALL)
FIRST = 2**61 + secrets.randbelow(2**61)
"""The number that stands for the first array in the rest of a body; the next array has the next
number. No client knows it."""
VALUE = ord("0")
CLASSES = np.full(256, VALUE, np.uint8)
"""The class of each byte outside of texts: 0 for space, brackets and commas themselves, and VALUE
for the rest."""
CLASSES[list(b" \t\r\n")] = 0
CLASSES[list(b"[],")] = list(b"[],")


@dataclass(frozen=True, slots=True)
class JsonArray:
    """An array of numbers, or of arrays of them, that is not parsed yet."""

    body: Body
    start: int
    """Position of its bracket."""
    end: int
    """Position behind its bracket."""

    def read(self, spec: TensorSpec, shape: Sequence[int]) -> Array:
        """The tensor.

        Raises BadRequestError unless it holds exactly that, nested as the shape says or flat.
        """
        nested = self.body.find(b"[", self.start + 1, self.end) >= 0
        if nested and not self._is_nested_as(shape):
            raise BadRequestError(f"{spec.name!r} is not nested as its shape {list(shape)} says")
        if nested and not prod(shape):
            return np.empty(shape, DTYPES.get(find_datatype(spec), object))
        if not nested and self.end - self.start <= PIECE_BYTES:
            made = read_piece(spec, bytes(self.body[self.start : self.end]))
            check_count(spec, shape, len(made))
            return made.reshape(shape)
        return self._read_pieces(spec, shape, nested).reshape(shape)

    def _read_pieces(self, spec: TensorSpec, shape: Sequence[int], nested: bool) -> Array:
        count, filled = prod(shape), 0
        made = np.empty(count, DTYPES.get(find_datatype(spec), object))
        for piece in (read_piece(spec, text) for text in self._iterate_pieces(spec, nested)):
            if not len(piece):
                raise BadRequestError(
                    f"the body is no JSON: a value is missing in the data of {spec.name!r}"
                )
            check_count(spec, shape, filled + len(piece), more=True)
            made[filled : filled + len(piece)] = piece
            filled += len(piece)
        check_count(spec, shape, filled)
        return made

    def _iterate_pieces(self, spec: TensorSpec, nested: bool) -> Iterator[bytes]:
        """Yield the content as flat arrays, cut at commas."""
        view, start, stop = memoryview(self.body), self.start + 1, self.end - 1
        while True:
            comma = self.body.find(b",", start + PIECE_BYTES, min(stop, start + 2 * PIECE_BYTES))
            end = comma if comma >= 0 else stop
            if end - start > 2 * PIECE_BYTES:
                raise BadRequestError(
                    f"a value in the data of {spec.name!r} is longer than a number can be"
                )
            piece = bytes(view[start:end])
            yield b"[" + (piece.translate(None, b"[]") if nested else piece) + b"]"
            if comma < 0:
                return
            start = comma + 1

    def _is_nested_as(self, shape: Sequence[int]) -> bool:
        """Whether brackets, commas and values come in the order in which the shape has them."""
        # Of the outline of each axis, before any is made: that of a shape of zeros can be long.
        lengths = [1]
        for size in reversed(shape):
            lengths.append(2 + size * lengths[-1] + max(size - 1, 0))
        if lengths[-1] > self.end - self.start:
            return False
        expected, ahead = write_outline(shape), b""
        for piece in self._iterate_outline():
            while len(ahead) < len(piece):
                more = next(expected, None)
                if more is None:
                    return False
                ahead += more
            if not ahead.startswith(piece):
                return False
            ahead = ahead[len(piece) :]
        return not ahead and next(expected, None) is None

    def _iterate_outline(self) -> Iterator[bytes]:
        """Yield the brackets and commas, with one ``0`` for each value."""
        view, last = np.frombuffer(memoryview(self.body)[self.start : self.end], np.uint8), 0
        for start in range(0, len(view), PIECE_BYTES):
            classes = CLASSES[view[start : start + PIECE_BYTES]]
            before = np.concatenate([[last], classes[:-1]])
            last = classes[-1]
            yield classes[(classes != 0) & ~((classes == VALUE) & (before == VALUE))].tobytes()


DataArray: TypeAlias = JsonArray | list[str]


def split_data(body: Body, most_texts: int) -> tuple[Body, list[DataArray]]:
    """Return what stands beside the arrays under ``data``, and those. A short body keeps those that
    are not flat or hold texts.

    Raises TooLargeError where the rest of a long body is not short, or an array has more texts than
    ``most_texts``.
    """
    cuts: list[DataArray] = []
    kept: list[Body] = []
    find = (
        find_flat_array if len(body) <= SHORT_BYTES else partial(find_array, most_texts=most_texts)
    )
    position = copied = apart = 0
    while (found := body.find(KEY, position, position + SHORT_BYTES)) >= 0:
        position = found + len(KEY)
        check_beside(position - apart)
        opening = OPENING.match(body, position, position + SHORT_BYTES)
        if opening and (cut := find(body, opening.end() - 1)):
            kept += (body[copied : opening.end() - 1], b"%d" % (FIRST + len(cuts)))
            cuts.append(cut[0])
            position = copied = cut[1]
            apart += cut[1] - opening.end() + 1
    check_beside(len(body) - apart)
    return (b"".join([*kept, body[copied:]]), cuts) if cuts else (body, cuts)


def check_beside(size: int) -> None:
    if size > SHORT_BYTES:
        raise TooLargeError(
            f"the JSON beside the data is over {SHORT_BYTES} bytes; send less of it, and the "
            "tensors as data"
        )


def find_flat_array(body: Body, start: int) -> tuple[JsonArray, int] | None:
    """Return the array that begins at a bracket, and its end; None where it is not flat or not of
    numbers."""
    end = body.find(b"]", start) + 1
    if not end or any(body.find(other, start + 1, end) >= 0 for other in (b'"', b"[", b"{")):
        return None
    return JsonArray(body, start, end), end


def find_array(body: Body, start: int, most_texts: int) -> tuple[DataArray, int] | None:
    """Return an array of anything but objects, and its end. Reading it checks it."""
    space = SPACE.match(body, start + 1, start + SHORT_BYTES)
    if body[space.end() : space.end() + 1] == b'"' if space else False:
        return find_texts(body, start + 1, most_texts)
    quote = body.find(b'"', start)
    stop = quote if quote >= 0 else len(body)
    brace = body.find(b"}", start, stop)
    end = body.rfind(b"]", start, brace if brace >= 0 else stop) + 1
    return (JsonArray(body, start, end), end) if end else None


def find_texts(body: Body, start: int, most: int) -> tuple[list[str], int] | None:
    texts: list[str] = []
    while len(texts) < most:
        found = TEXT.match(body, start, start + TEXT_BYTES)
        if found is None:
            return None
        texts.append(parse_json(found[1]))
        start = found.end()
        if found[2] == b"]":
            return texts, start
    raise TooLargeError(
        f"an array holds more than {most} texts, which is more than any input takes"
    )


def find_cut(value: Any, cuts: Sequence[DataArray]) -> DataArray | None:
    """Return the array that a value of the rest stands for."""
    return cuts[value - FIRST] if type(value) is int and 0 <= value - FIRST < len(cuts) else None


def write_outline(shape: Sequence[int]) -> Iterator[bytes]:
    """Yield the brackets and commas of an array of this shape, each value as ``0``.

    A piece has about PIECE_BYTES at most, however many rows an axis has.
    """
    if not shape:
        yield b"0"
        return
    size, rows = shape[0], write_outline(shape[1:])
    row, long = next(rows) + b",", next(rows, None) is not None
    at_once = max(PIECE_BYTES // len(row), 1)
    if not size:
        yield b"[]"
        return
    if size <= at_once and not long:
        yield b"[" + (row * size)[:-1] + b"]"
        return
    yield b"["
    if long:
        for index in range(size):
            yield from write_outline(shape[1:])
            yield b"," if index < size - 1 else b"]"
        return
    for done in range(0, size - 1, at_once):
        yield row * min(at_once, size - 1 - done)
    yield row[:-1] + b"]"


def check_count(spec: TensorSpec, shape: Sequence[int], count: int, more: bool = False) -> None:
    """Raise BadRequestError for a wrong number of elements; ``more``: further ones may follow."""
    if count > prod(shape) or (count < prod(shape) and not more):
        found = f"{count} elements" if not more else f"{count} elements or more"
        raise BadRequestError(
            f"{spec.name!r} has {found} in data, its shape {list(shape)} asks for {prod(shape)}"
        )
