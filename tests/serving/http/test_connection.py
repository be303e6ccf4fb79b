"""One connection whose client takes its reply in slowly, or not at all."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import Mock

import pytest

from attar.serving import server as serving
from attar.serving.core.settings import Settings
from attar.serving.http import connection
from attar.serving.http.message import Reply, Request
from attar.serving.http.tls_listener import accept_waiting
from attar.serving.models.sources import BundleSources
from attar.serving.server import Server
from tests.support.serving.certificates import make_certificate
from tests.support.serving.serving_parts import Running, running, until

BIG = 12_000_000
ASK = b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n"
KeyPair: TypeAlias = dict[str, Path]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """The settings of TLS, or none."""
    if not request.param:
        return {}
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    cert, key = make_certificate(tmp_path_factory.mktemp("tls"), "one")
    return {"tls_cert": cert, "tls_key": key}


@contextmanager
def serving_big(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Running]:
    """A server that answers /big with more than the buffers of the kernel take."""

    async def answer(request: Request) -> Reply:
        return Reply([bytes(BIG)], content_type="text/plain")

    monkeypatch.setattr(serving, "LOOK_SECONDS", 0.05)
    with running(**settings) as server:
        server.server.api.add_route("GET", "/big", answer)
        yield server


def connect(server: Running) -> socket.socket:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    raw.connect((server.host, server.port))
    raw.settimeout(10)
    return secure(server, raw)


def secure(server: Running, raw: socket.socket) -> socket.socket:
    """With TLS where the server has it."""
    cert = server.server.settings.tls_cert
    if cert is None:
        return raw
    trusting = ssl.create_default_context(cafile=str(cert))
    trusting.check_hostname = False
    return trusting.wrap_socket(raw)


def find_socket(server: Running) -> Any:
    """The server's socket of its one connection, None before it is made."""
    return next((each.transport.get_extra_info("socket") for each in server.server.connections), None)


def read_slowly(raw: socket.socket, size: int, seconds: float) -> int:
    """Read so many bytes at a steady rate, and return how many came."""
    began, got = time.monotonic(), 0
    while got < size and (part := raw.recv(20_000)):
        got += len(part)
        time.sleep(max(0.0, got / size * seconds - (time.monotonic() - began)))
    return got


def test_who_reads_nothing_is_cut_off_whatever_it_sends(pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte gave it the whole time again. What it leaves unread is counted until then."""
    with serving_big(monkeypatch, slow=0.4, **pair) as server, closing(connect(server)) as raw:
        raw.sendall(ASK)
        until(lambda: server.server.ledger.held > BIG // 2)
        for _ in range(30):
            if not server.server.connections:
                break
            raw.sendall(b"G")
            time.sleep(0.1)
        assert not server.server.connections
        assert server.server.ledger.held == 0


def test_who_reads_steadily_gets_all_however_long_that_takes(pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_big(monkeypatch, slow=0.4, **pair) as server, closing(connect(server)) as raw:
        raw.sendall(ASK * 2)
        assert read_slowly(raw, 2 * BIG, 1.5) >= 2 * BIG
        until(lambda: server.server.ledger.held == 0)


def test_a_reply_that_is_read_when_the_server_ends_is_sent_to_its_end(pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was cut off after a second, as if nobody had asked anything."""
    with serving_big(monkeypatch, **pair) as server, closing(connect(server)) as raw:
        raw.sendall(ASK)
        until(lambda: server.server.ledger.held > 0)
        stopped = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)
        assert read_slowly(raw, BIG, 1.5) >= BIG
        raw.close()
        stopped.result(8)  # the time to drain is 30 s


def test_the_end_of_a_last_reply_is_not_cut_off(pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits when all is written had the two seconds in which a client may read a refusal."""
    monkeypatch.setattr(connection, "MINIMUM_BYTES_A_SECOND", 100_000)
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.1)
    with serving_big(monkeypatch, slow=1.2, **pair) as server, closing(connect(server)) as raw:
        until(lambda: find_socket(server) is not None)
        find_socket(server).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        raw.sendall(ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        got = read_slowly(raw, BIG - 200_000, 0.5)
        assert got + read_slowly(raw, 300_000, 2.4) >= BIG


def test_connections_that_wait_when_the_server_ends_are_answered(pair: KeyPair) -> None:
    """The system takes them before the server does; closing its sockets would reset them."""
    with running(**pair) as server:
        waiting: list[socket.socket] = []

        async def end() -> None:
            server.server.service.draining = True
            waiting.extend(socket.create_connection((server.host, server.port), 10) for _ in range(3))
            await server.server._drain_connections()

        ended = asyncio.run_coroutine_threadsafe(end(), server.loop)
        until(lambda: len(waiting) == 3)
        for raw in waiting:
            with closing(secure(server, raw)) as client:
                client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
        ended.result(10)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port), 10)


def test_of_many_waiting_connections_no_more_than_the_backlog_are_taken() -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(3):
            stack.enter_context(socket.create_connection(listening.getsockname()))
        taken = [len([stack.enter_context(each) for each in accept_waiting(listening, 2)]) for _ in range(3)]
        assert taken == [2, 1, 0]


def test_a_client_that_goes_before_its_request_is_begun_leaves_nothing_behind() -> None:
    """Its last bytes and its end come in one turn of the event loop, so the task is cancelled before its first step."""
    body = b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n" + bytes(50_000)

    async def come_and_go() -> int:
        server = Server(BundleSources({}, ()), Settings())
        made = server._make_connection()
        made.connection_made(Mock(spec=asyncio.Transport))
        made.data_received(body)
        assert server.ledger.held == 50_000
        made.connection_lost(None)
        await asyncio.sleep(0.01)
        return server.ledger.held

    assert asyncio.run(come_and_go()) == 0
