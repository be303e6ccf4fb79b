"""HTTP messages: a request as it is read, and a reply as it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from time import perf_counter_ns
from typing import Any, TypeAlias

import orjson

from attar.serving.core.ledger import Reservation
from attar.serving.protocol.json_numbers import Body

Buffer: TypeAlias = bytes | memoryview


@dataclass(slots=True)
class Request:
    method: str
    target: bytes
    """The path with its query, or a whole URL, as it was sent."""
    headers: dict[bytes, bytes]
    """Values by lower-case name. Repeated ones are joined by commas (RFC 9110 5.2), so that none
    overrides another."""
    body: Body
    keep_alive: bool
    reservation: Reservation
    """The memory that the request takes."""
    id: str = ""
    """The client's id of the request, for the log."""
    arrived: int = field(default_factory=perf_counter_ns)
    """When it was whole, by ``perf_counter_ns``: its deadline counts from there."""


@dataclass(slots=True)
class Reply:
    body: Sequence[Buffer] = ()
    status: int = 200
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()


@lru_cache(maxsize=256)
def format_head(status: int, content_type: str, keep: bool) -> bytes:
    connection = "keep-alive" if keep else "close"
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: "
        f"{content_type}\r\nConnection: {connection}\r\n"
    ).encode("latin-1")


def json_reply(content: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Reply:
    return Reply([orjson.dumps(content)], status, headers=headers)
