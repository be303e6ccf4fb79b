"""Wire: what a message over gRPC would take when it is decoded, counted before it is.

A field of two bytes becomes an object of a hundred.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from attar.serving.core.errors import BadRequestError, TooLargeError
from attar.serving.protocol.json_data import SHORT_BYTES

MOST_FIELDS = 2**14
"""Fields of a request, those inside its tensors among them."""
MODEL_NAME, MODEL_VERSION, INPUTS, OUTPUTS, RAW = 1, 2, 5, 6, 7
"""Fields of a ModelInferRequest."""
CONTENTS = 5
"""Field of an input."""
VARINTS = (1, 2, 3, 4, 5)
"""Fields of the contents whose elements have a byte or more, and become up to eight."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types."""
INTEGER_BYTES = 8
"""Of an integer or a flag once it is decoded, at most."""
PIECE_BYTES = 2**18
"""Whose integers are counted at once."""
FindMost: TypeAlias = Callable[[str, str], int]
"""From the name and the version of a model to the integers and flags that its request may have."""


def check_message(sent: bytes, find_most: FindMost) -> int:
    """Return the bytes that the integers and flags of a ModelInferRequest take when decoded.

    Raises TooLargeError for a request that would be far larger than its bytes, BadRequestError
    for what is no such request, and what ``find_most`` raises.
    """
    names = {MODEL_NAME: b"", MODEL_VERSION: b""}
    try:
        counted = MessageCounter(sent)
        for field, start, end in counted.iterate_fields(0, len(sent)):
            if field in names and end - start <= SHORT_BYTES:
                names[field] = sent[start:end]
            if field == INPUTS:
                counted.check_input(start, end)
            elif field == OUTPUTS:
                counted.beside += sum(
                    end - start for _, start, end in counted.iterate_fields(start, end)
                )
            elif field != RAW:
                counted.beside += end - start
        counted.check_beside()
    except IndexError as error:
        raise BadRequestError("no ModelInferRequest: it ends too early") from error
    if not counted.integers:
        return 0
    name, version = (part.decode(errors="replace") for part in names.values())
    return INTEGER_BYTES * counted.count_integers(find_most(name, version))


class MessageCounter:
    def __init__(self, sent: bytes) -> None:
        self.sent = sent
        self.left = MOST_FIELDS
        self.beside = 0
        """Bytes that belong to no content of a tensor."""
        self.integers: list[tuple[int, int]] = []
        """Where integers and flags of any tensor begin and end."""

    def check_input(self, start: int, end: int) -> None:
        for field, inner, stop in self.iterate_fields(start, end):
            if field == CONTENTS:
                self.find_integers(inner, stop)
            else:
                self.beside += stop - inner
        self.check_beside()

    def check_beside(self) -> None:
        if self.beside > SHORT_BYTES:
            raise TooLargeError(
                f"what stands beside the content of tensors is over {SHORT_BYTES} bytes; send "
                "less of it"
            )

    def find_integers(self, start: int, end: int) -> None:
        for field, inner, stop in self.iterate_fields(start, end):
            if field in VARINTS:
                self.integers.append((inner, stop))

    def count_integers(self, most: int) -> int:
        """Return how many there are in all tensors together.

        Raises TooLargeError for more than ``most``.
        """
        count = 0
        for first, last in self.integers:
            for start in range(first, last, PIECE_BYTES):
                size = min(PIECE_BYTES, last - start)
                ends = np.frombuffer(self.sent, np.uint8, size, start) < 0x80  # of each varint
                count += int(np.count_nonzero(ends))
                if count > most:
                    raise TooLargeError(
                        f"the contents hold more integers than the {most} that the model takes"
                    )
        return count

    def iterate_fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield a field's number, and where its content starts and ends.

        Raises IndexError where it would end behind ``end``.
        """
        while start < end:
            self.left -= 1
            if self.left < 0:
                raise TooLargeError(
                    f"the message has more than {MOST_FIELDS} fields; send tensors as "
                    "raw_input_contents"
                )
            tag, start = self.read_varint(start)
            kind, size = tag & 7, 0
            if kind == VARINT:
                _, stop = self.read_varint(start)
            else:
                if kind == LENGTH:
                    size, start = self.read_varint(start)
                stop = start + {FIXED64: 8, FIXED32: 4, LENGTH: size}.get(kind, end)
            if stop > end:
                raise IndexError
            yield tag >> 3, start, stop
            start = stop

    def read_varint(self, start: int) -> tuple[int, int]:
        """Return the number, and where it ends."""
        made = shift = 0
        while True:
            byte = self.sent[start]
            made |= (byte & 0x7F) << shift
            start, shift = start + 1, shift + 7
            if byte < 0x80:
                return made, start
            if shift > 63:
                raise IndexError
