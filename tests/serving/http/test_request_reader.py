"""Requests as they are read: how many may wait, and what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from attar.serving.core.errors import NoRoomError
from attar.serving.core.ledger import MemoryLedger
from attar.serving.core.settings import Settings
from attar.serving.http.message import Request
from attar.serving.http.request_reader import MAX_PIPELINED, PIECE_BYTES, RequestReader
from attar.serving.models.sources import BundleSources
from attar.serving.server import Server

SHORT = b"GET / HTTP/1.1\r\nHost:localhost\r\n\r\n"


def read(work: Callable[[RequestReader], None], ledger: MemoryLedger) -> None:
    """Call ``work`` with a reader, on an event loop."""

    async def run() -> None:
        server = Server(BundleSources({}, ()), Settings())
        work(RequestReader(server.api, server.authenticator, ledger))

    asyncio.run(run())


def take_all(reader: RequestReader) -> list[Request]:
    """Take every request, as a connection does."""
    taken = []
    while reader.requests:
        taken.append(reader.requests.popleft())
        taken[-1].reservation.close()
        reader.read_rest()
    return taken


def test_of_one_read_full_of_requests_few_wait_and_the_rest_is_kept() -> None:
    ledger = MemoryLedger(10**6)

    def work(reader: RequestReader) -> None:
        reader.read(SHORT * 10_000)
        assert reader.is_full
        assert len(reader.requests) < MAX_PIPELINED + PIECE_BYTES // len(SHORT) + 1
        assert ledger.held > 9_000 * len(SHORT)
        reader.read(SHORT)
        assert len(take_all(reader)) == 10_001
        assert ledger.held == 0

    read(work, ledger)


def test_requests_that_wait_find_no_room_where_the_ledger_has_none() -> None:
    ledger = MemoryLedger(10_000)

    def work(reader: RequestReader) -> None:
        with pytest.raises(NoRoomError):
            reader.read(SHORT * 100)
        reader.drop_requests()
        assert ledger.held == 0

    read(work, ledger)


@pytest.mark.parametrize("length", [100, 5_000, 20_000])
def test_bodies_are_whole_however_the_pieces_fall(length: int) -> None:
    body = b"\r\n" * (length // 2)
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length

    def work(reader: RequestReader) -> None:
        reader.read((head + body) * 40)
        assert [request.body for request in take_all(reader)] == [body] * 40

    read(work, MemoryLedger(10**7))
