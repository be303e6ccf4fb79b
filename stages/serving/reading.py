"""Reading: the body of a request, decompressed and read for its model: beside the event loop where that could hold it up."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from attar.stages.serving.errors import BadRequest, Late, TooLarge
from attar.stages.serving.http_message import Request
from attar.stages.serving.json_data import SHORT_BYTES, Body
from attar.stages.serving.protocol import HEADER_LENGTH, Infer
from attar.stages.serving.reader import Reader

LENGTH = HEADER_LENGTH.lower().encode()
ENCODINGS = {b"gzip": 31, b"deflate": 15}
"""What zlib calls them."""
PIECE_BYTES = 2**18
"""That are decompressed at once."""
QUICK_BYTES = 2**22
"""Up to which the bytes of tensors, which are only looked at, are taken on the event loop."""
T = TypeVar("T")


class BodyReading:
    """Has one thread: a second would only wait for the interpreter, and make the event loop wait longer."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._threads = ThreadPoolExecutor(1, "read")

    async def read(self, request: Request, reader: Reader) -> Infer:
        """The request, which loses its body. Raises Refused."""
        length, encoding, body = content_length(request), content_encoding(request), request.body
        request.body = b""
        reserve = request.reservation.add
        if encoding is None and is_quick(reader, body, length):
            return reader.read(body, length)
        return await self.run(lambda: reader.read(decompress(body, encoding, reader.largest, reserve), length, reserve))

    async def run(self, work: Callable[[], T]) -> T:
        """In the thread. Raises Late where it is not done in time; it returns or raises when the thread is done with it."""
        job = self._threads.submit(work)
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.wrap_future(job)
        except TimeoutError as error:
            raise Late(f"there was no time to read the request within {self._deadline:g} s") from error
        finally:
            while not job.done():  # what it holds is reserved until then
                await asyncio.sleep(0.01)
            del job, work  # an error leads to this frame, and from here to the body, which would stay until garbage is collected

    def close(self) -> None:
        """For when nothing is read any more."""
        self._threads.shutdown()


def is_quick(reader: Reader, body: Body, length: int | None) -> bool:
    if len(body) <= SHORT_BYTES:
        return True
    return length is not None and length <= SHORT_BYTES and len(body) <= QUICK_BYTES and not reader.most_texts


def content_length(request: Request) -> int | None:
    """Of the JSON. Raises BadRequest."""
    given = request.headers.get(LENGTH)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18:
        raise BadRequest(f"{HEADER_LENGTH} is {given[:40].decode('latin-1')!r}, expected a number of bytes")
    return int(given)


def content_encoding(request: Request) -> bytes | None:
    """Raises BadRequest for an unknown one."""
    encoding = request.headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() not in ENCODINGS:
        raise BadRequest(f"the Content-Encoding is {encoding[:40].decode('latin-1')!r}, taken are gzip and deflate")
    return encoding and encoding.lower()


def decompress(body: Body, encoding: bytes | None, most: int, reserve: Callable[[int], None]) -> Body:
    """Raises BadRequest for a broken encoding, TooLarge for more than ``most`` bytes, and what ``reserve`` raises before more is
    made than it allows."""
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
                    raise TooLarge(f"the body is over {most} bytes when decompressed")
                rest = opened.unconsumed_tail
                more = bool(rest) or len(part) == PIECE_BYTES
            if opened.eof:
                break
    except zlib.error as error:
        raise BadRequest(f"the body is no {encoding.decode()}: {error}") from error
    if not opened.eof or opened.unused_data or start + PIECE_BYTES < len(body):
        raise BadRequest(f"the body is no whole {encoding.decode()}")
    return made
