"""The body of an HTTP request: decompressed and read, beside the event loop if that may take
long."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from attar.serving.core.errors import BadRequestError, TooLargeError
from attar.serving.http.message import Request
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.json_numbers import Body
from attar.serving.protocol.reader import Reader
from attar.serving.protocol.reader_thread import ReaderThread
from attar.serving.protocol.request import HEADER_LENGTH, InferenceRequest

LENGTH = HEADER_LENGTH.lower().encode()
ENCODINGS = {b"gzip": 31, b"deflate": 15}
"""What zlib calls them."""
PIECE_BYTES = 2**18
"""That are decompressed at once."""
QUICK_BYTES = 2**22
"""Up to which the bytes of tensors, which are only looked at, are taken on the event loop."""


async def read_body(request: Request, reader: Reader, thread: ReaderThread) -> InferenceRequest:
    """Return what the body asks, and drop the body. Raises RequestError."""
    length, encoding = content_length(request), content_encoding(request)
    body, request.body = request.body, b""
    reservation = request.reservation
    if encoding is None and is_quick(reader, body, length):
        return reader.read(body, length, reservation)

    def read() -> InferenceRequest:
        plain = decompress(body, encoding, reader.largest, reservation.add)
        return reader.read(plain, length, reservation)

    return await thread.run(read)


def is_quick(reader: Reader, body: Body, length: int | None) -> bool:
    if len(body) <= SHORT_BYTES:
        return True
    return (
        length is not None
        and length <= SHORT_BYTES
        and len(body) <= QUICK_BYTES
        and not reader.most_texts
    )


def content_length(request: Request) -> int | None:
    """Return the size of the JSON. Raises BadRequestError."""
    given = request.headers.get(LENGTH)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18:
        raise BadRequestError(
            f"{HEADER_LENGTH} is {given[:40].decode('latin-1')!r}, expected a number of bytes"
        )
    return int(given)


def content_encoding(request: Request) -> bytes | None:
    """Return the Content-Encoding. Raises BadRequestError for an unknown one."""
    encoding = request.headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() not in ENCODINGS:
        raise BadRequestError(
            f"the Content-Encoding is {encoding[:40].decode('latin-1')!r}, taken are gzip and "
            "deflate"
        )
    return encoding and encoding.lower()


def decompress(
    body: Body, encoding: bytes | None, most: int, reserve: Callable[[int], None]
) -> Body:
    """Raises BadRequestError for a broken encoding, TooLargeError for more than ``most`` bytes,
    and what ``reserve`` raises before more is made than it allows."""
    if encoding is None:
        return body
    opened, made = zlib.decompressobj(ENCODINGS[encoding]), bytearray()
    try:
        for start in range(0, len(body), PIECE_BYTES):
            rest, more = bytes(body[start : start + PIECE_BYTES]), True
            while more:
                part = opened.decompress(rest, PIECE_BYTES)
                reserve(len(part))
                made += part
                if len(made) > most:
                    raise TooLargeError(f"the body is over {most} bytes when decompressed")
                rest = opened.unconsumed_tail
                more = bool(rest) or len(part) == PIECE_BYTES
            if opened.eof:
                break
    except zlib.error as error:
        raise BadRequestError(f"the body is no {encoding.decode()}: {error}") from error
    if not opened.eof or opened.unused_data or start + PIECE_BYTES < len(body):
        raise BadRequestError(
            f"the body is no whole {encoding.decode()}; send one member, with nothing behind it"
        )
    return made
