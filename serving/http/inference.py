"""Inference over HTTP: reads the body of a request and writes the outputs, beside the event loop if
that may take long."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import partial

from attar.models.task import Array
from attar.serving.core.errors import BadRequestError, TooLargeError
from attar.serving.core.ledger import Reservation
from attar.serving.http.api import MODEL, HttpApi, filter_id
from attar.serving.http.message import Reply, Request
from attar.serving.models.model import ServedModel
from attar.serving.protocol import response
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.json_numbers import Body
from attar.serving.protocol.reader import InferenceReader
from attar.serving.protocol.reader_thread import ReaderThread
from attar.serving.protocol.request import HEADER_LENGTH, InferenceRequest

LENGTH_FIELD = HEADER_LENGTH.lower().encode()
ENCODINGS = {b"gzip": 31, b"deflate": 15}
"""The ``wbits`` of zlib for each Content-Encoding."""
PIECE_BYTES = 2**18
"""Size of the pieces that are decompressed."""
QUICK_BYTES = 2**22
"""Up to this size the bytes of tensors are read on the event loop."""


class InferenceHandler:
    def __init__(self, api: HttpApi) -> None:
        self._repository, self._thread = api.repository, api.service.reader_thread
        api.add_route("POST", MODEL + "/infer", self.infer, takes_tensors=True)

    async def infer(self, request: Request, name: str, version: str = "") -> Reply:
        model = self._repository.find_model(name, version)
        reading = self.read_inference(request, model.reader)
        reply = partial(self.write_reply, request.arrived)
        return await model.answer(reading, reply, request.arrived)

    async def read_inference(self, request: Request, reader: InferenceReader) -> InferenceRequest:
        """Return the request for a model whose bundle is in use. Raises RequestError."""
        asked = await read_body(request, reader, self._thread)
        request.id = request.id or filter_id(asked.id)
        return asked

    async def write_reply(
        self,
        arrived: int,
        model: ServedModel,
        asked: InferenceRequest,
        outputs: Mapping[str, Array],
    ) -> Reply:
        """Return the reply to a request, written beside the event loop if that may take long.

        Raises RequestError.
        """
        if response.is_quick(asked, outputs, has_json=True):
            return inference_reply(model, asked, outputs)
        return await self._thread.run(arrived, inference_reply, model, asked, outputs)


def inference_reply(
    model: ServedModel, asked: InferenceRequest, outputs: Mapping[str, Array]
) -> Reply:
    answer = response.build_response(
        asked, outputs, model.name, model.version, model.signature.labels
    )
    pieces, size = response.write_response(answer)
    if size is None:
        return Reply(pieces)
    headers = [(HEADER_LENGTH, str(size))]
    return Reply(pieces, content_type="application/octet-stream", headers=headers)


async def read_body(
    request: Request, reader: InferenceReader, thread: ReaderThread
) -> InferenceRequest:
    """Read the body, and drop it. Raises RequestError."""
    length, encoding = find_json_length(request), find_encoding(request)
    body, request.body = request.body, b""
    reservation = request.reservation
    if encoding is None and is_quick(reader, body, length):
        return reader.read(body, length, reservation)

    def read() -> InferenceRequest:
        plain = decompress(body, encoding, reader.largest, reservation)
        return reader.read(plain, length, reservation)

    return await thread.run(request.arrived, read)


def is_quick(reader: InferenceReader, body: Body, length: int | None) -> bool:
    """Whether a body may be read on the event loop."""
    if len(body) <= SHORT_BYTES:
        return True
    is_binary = length is not None and length <= SHORT_BYTES and not reader.most_texts
    return is_binary and len(body) <= QUICK_BYTES


def find_json_length(request: Request) -> int | None:
    """Return the size of the JSON, if bytes follow it. Raises BadRequestError."""
    given = request.headers.get(LENGTH_FIELD)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18:
        raise BadRequestError(
            f"{HEADER_LENGTH} is {given[:40].decode('latin-1')!r}, expected a number of bytes"
        )
    return int(given)


def find_encoding(request: Request) -> bytes | None:
    """Return the Content-Encoding. Raises BadRequestError for an unknown one."""
    encoding = request.headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() not in ENCODINGS:
        raise BadRequestError(
            f"the Content-Encoding is {encoding[:40].decode('latin-1')!r}, taken are gzip and "
            "deflate"
        )
    return encoding and encoding.lower()


def read_short_body(request: Request) -> Body:
    """Return the body of a request without tensors. Raises BadRequestError and TooLargeError."""
    if len(request.body) > SHORT_BYTES:
        raise TooLargeError(f"the body is over {SHORT_BYTES} bytes, which no request is here")
    return decompress(request.body, find_encoding(request), SHORT_BYTES, request.reservation)


def decompress(body: Body, encoding: bytes | None, most: int, reservation: Reservation) -> Body:
    """Return the plain body, whose memory is reserved before it is used.

    Raises BadRequestError for a broken encoding, TooLargeError for more than ``most`` bytes, and
    what the reservation raises.
    """
    if encoding is None:
        return body
    decoder, plain = zlib.decompressobj(ENCODINGS[encoding]), bytearray()
    try:
        for start in range(0, len(body), PIECE_BYTES):
            rest, more = bytes(body[start : start + PIECE_BYTES]), True
            while more:
                part = decoder.decompress(rest, PIECE_BYTES)
                reservation.add(len(part))
                plain += part
                if len(plain) > most:
                    raise TooLargeError(f"the body is over {most} bytes when decompressed")
                rest = decoder.unconsumed_tail
                more = bool(rest) or len(part) == PIECE_BYTES
            if decoder.eof:
                break
    except zlib.error as error:
        raise BadRequestError(f"the body is no {encoding.decode()}: {error}") from error
    if not decoder.eof or decoder.unused_data or start + PIECE_BYTES < len(body):
        raise BadRequestError(
            f"the body is no whole {encoding.decode()}; send one member, with nothing behind it"
        )
    return plain
