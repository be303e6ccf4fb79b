"""What all calls over gRPC have in common: the server's options, messages, and errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from attar.serving.core.errors import BadRequestError, EngineFailedError, NoRoomError, RequestError
from attar.serving.core.settings import Settings

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself calls a message that is too large
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The status of gRPC for each of HTTP."""
COPIES = 3
"""Memory for a message while it is read, in copies of it: as it came, decoded, and as arrays."""
log = logging.getLogger(__name__)


def decode_message(asked: Any, sent: Any) -> Any:
    """Return the message. Raises BadRequestError if the bytes are no message of this class."""
    if sent is grpc.aio.EOF:
        raise BadRequestError(f"the request ended without a {asked.DESCRIPTOR.name}")
    try:
        return asked.FromString(sent)
    except DecodeError as error:
        raise BadRequestError(f"no {asked.DESCRIPTOR.name}: {error}") from error


def encode_message(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


@contextmanager
def convert_errors(name: str) -> Iterator[None]:
    """Raise only RequestError: any other error is logged, and becomes EngineFailedError."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        log.exception("%s failed", name)
        raise EngineFailedError("the server failed; its log says why") from error


async def abort_call(context: Any, error: RequestError) -> NoReturn:
    """End a call with an error; its metadata says when gRPC's own retries may try again."""
    metadata: tuple[tuple[str, str], ...] = ()
    if error.retry_after is not None:
        metadata = (("grpc-retry-pushback-ms", str(error.retry_after * 1000)),)
    for each in (error, error.__cause__, error.__context__):
        if each:  # else the frames keep the message until garbage is collected
            clear_frames(each.__traceback__)
    has_no_room = isinstance(error, NoRoomError)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED if has_no_room else CODES[error.status]
    await context.abort(code, str(error), metadata)
    raise error  # never reached, as abort raises


def list_server_options(settings: Settings, largest: int) -> list[tuple[str, int]]:
    """Return the options of gRPC's server, which its ``channel_arg_names.h`` explains."""
    idle, slow = int(settings.idle * 1000), int(settings.slow * 1000)
    return [
        # A second server on the port would take half of the requests, and nobody would know.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", largest),
        # It would let the bytes that are not read yet grow to megabytes for each call.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_metadata_size", settings.max_header),
        # Each connection takes a descriptor.
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_connection_idle_ms", idle),
        # Asks a client that sends nothing whether it is still there.
        ("grpc.keepalive_time_ms", idle),
        ("grpc.http2.ping_timeout_ms", slow),
        ("grpc.server_handshake_timeout_ms", slow),
    ]
