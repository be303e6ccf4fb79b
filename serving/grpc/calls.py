"""What every call over gRPC has in common: its messages, and how it ends with an error."""

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
"""What gRPC calls an error that has this status in HTTP."""
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
    made: bytes = message.SerializeToString()
    return made


@contextmanager
def convert_errors(name: str) -> Iterator[None]:
    """Raise RequestError alone: any other error is logged, and reported as EngineFailedError."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        log.exception("%s failed", name)
        raise EngineFailedError("the server failed; its log says why") from error


async def abort_call(context: Any, error: RequestError) -> NoReturn:
    """End a call with an error, and say to gRPC's own retries in how many milliseconds another
    one makes sense."""
    again = (
        ()
        if error.retry_after is None
        else (("grpc-retry-pushback-ms", str(error.retry_after * 1000)),)
    )
    for each in (error, error.__cause__, error.__context__):
        clear_frames(
            each.__traceback__ if each else None
        )  # else they keep the message until garbage is collected
    code = (
        grpc.StatusCode.RESOURCE_EXHAUSTED
        if isinstance(error, NoRoomError)
        else CODES[error.status]
    )
    await context.abort(code, str(error), again)
    raise error  # which abort never comes to


def list_server_options(settings: Settings, largest: int) -> list[tuple[str, int]]:
    """Return the options of gRPC's server; its ``channel_arg_names.h`` explains them."""
    return [
        (
            "grpc.so_reuseport",
            0,
        ),  # else a second server would take half of the requests without a word
        ("grpc.max_receive_message_length", largest),
        ("grpc.http2.bdp_probe", 0),  # else what nobody reads yet grows to megabytes for each call
        ("grpc.max_metadata_size", settings.max_header),
        (
            "grpc.max_allowed_incoming_connections",
            settings.max_connections,
        ),  # each takes a descriptor
        ("grpc.max_connection_idle_ms", int(settings.idle * 1000)),
        (
            "grpc.keepalive_time_ms",
            int(settings.idle * 1000),
        ),  # asks whether a client that says nothing is still there
        ("grpc.http2.ping_timeout_ms", int(settings.slow * 1000)),
        ("grpc.server_handshake_timeout_ms", int(settings.slow * 1000)),
    ]
