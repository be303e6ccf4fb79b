"""The wire format of a ModelInferRequest: a long one is split before protobuf decodes it.

Protobuf would copy the content of all tensors, while nothing else runs, and make an object of a
hundred bytes of a field of two. Here the content stays where it came, and the rest is short.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from attar.serving.core.errors import BadRequestError, TooLargeError
from attar.serving.protocol.json_data import SHORT_BYTES

MAX_FIELDS = 2**14
"""Limit of the fields of a message, those inside its tensors included."""
INPUTS, RAW = 5, 7
"""Numbers of fields of a ModelInferRequest."""
CONTENTS = 5
"""Number of the field of an input that holds its elements."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types."""
Contents: TypeAlias = Mapping[int, list[memoryview]]
"""Fields of an InferTensorContents, by number: the pieces that they came in."""


@dataclass(slots=True)
class SplitMessage:
    """A ModelInferRequest without the content of its tensors, and that content."""

    head: bytearray = field(default_factory=bytearray)
    raw: list[memoryview] = field(default_factory=list)
    contents: list[Contents] = field(default_factory=list)
    """The contents of each input."""


def split_message(sent: bytes) -> SplitMessage:
    """Split a ModelInferRequest. Raises BadRequestError, and TooLargeError if the rest is long."""
    fields, split = FieldReader(sent), SplitMessage()
    try:
        for number, start, content, end in fields.iterate_fields(0, len(sent)):
            if number == RAW:
                split.raw.append(fields.view[content:end])
            elif number == INPUTS:
                rest, contents = fields.split_input(content, end)
                split.contents.append(contents)
                split.head += write_field(INPUTS, rest)
            else:
                check_head_bytes(len(split.head) + end - start)
                split.head += fields.view[start:end]
            check_head_bytes(len(split.head))
    except IndexError as error:
        raise BadRequestError("no ModelInferRequest: it ends too early") from error
    return split


def check_head_bytes(size: int) -> None:
    if size > SHORT_BYTES:
        raise TooLargeError(
            f"what stands beside the content of tensors is over {SHORT_BYTES} bytes; send "
            "less of it"
        )


class FieldReader:
    """Reads the fields of one message; methods raise IndexError if it ends too early."""

    def __init__(self, sent: bytes) -> None:
        self.sent, self.view = sent, memoryview(sent)
        self._count = 0

    def split_input(self, start: int, end: int) -> tuple[bytes, dict[int, list[memoryview]]]:
        """Return an input without its contents, and those."""
        rest, contents = bytearray(), dict[int, list[memoryview]]()
        for number, begin, content, stop in self.iterate_fields(start, end):
            if number != CONTENTS:
                check_head_bytes(len(rest) + stop - begin)
                rest += self.view[begin:stop]
                continue
            for kind, _, first, last in self.iterate_fields(content, stop):
                contents.setdefault(kind, []).append(self.view[first:last])
        return bytes(rest), contents

    def iterate_fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield of each field its number, its start, the start of its content and its end."""
        while start < end:
            self._count += 1
            if self._count > MAX_FIELDS:
                raise TooLargeError(
                    f"the message has more than {MAX_FIELDS} fields; send tensors as "
                    "raw_input_contents"
                )
            tag, content = self.read_varint(start)
            wire_type, size = tag & 7, 0
            if wire_type == VARINT:
                _, stop = self.read_varint(content)
            else:
                if wire_type == LENGTH:
                    size, content = self.read_varint(content)
                stop = content + {FIXED64: 8, FIXED32: 4, LENGTH: size}.get(wire_type, end)
            if stop > end:
                raise IndexError
            yield tag >> 3, start, content, stop
            start = stop

    def read_varint(self, start: int) -> tuple[int, int]:
        """Return a number, and where it ends."""
        number = shift = 0
        while True:
            byte = self.sent[start]
            number |= (byte & 0x7F) << shift
            start, shift = start + 1, shift + 7
            if byte < 0x80:
                return number, start
            if shift > 63:
                raise IndexError


def write_field(number: int, content: bytes | memoryview) -> bytes:
    """Return a field whose content has a length, as a message or packed numbers."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | LENGTH, *length, size]) + content
