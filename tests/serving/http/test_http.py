"""One connection: what arrives in which pieces, and what is cut off."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from attar.serving.core.errors import DeadlineError
from attar.serving.core.ledger import MemoryLedger
from tests.support.serving.serving_parts import INFER, Running, asked, running, slow

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def server(points_bundle: Path) -> Iterator[Running]:
    with running(points_bundle, max_body=100_000, max_header=2000, slow=0.3, idle=0.6) as made:
        yield made


def infer(*rows: list[float], name: str = "points", extra: bytes = b"", **more: object) -> bytes:
    body = json.dumps(asked(*rows, **more)).encode()
    head = f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n".encode()
    return head + extra + b"\r\n" + body


def statuses(answer: bytes) -> list[int]:
    return [int(part.split(b" ", 1)[0]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def test_many_requests_on_one_connection_in_their_order(server: Running) -> None:
    sent = [infer([n, 0], id=str(n)) for n in range(50)]
    answer = server.send(b"".join(sent) + LAST)
    assert statuses(answer) == [200] * 51
    ids = [part.split(b'"')[0] for part in answer.split(b'"id":"')[1:]]
    assert ids == [str(n).encode() for n in range(50)]


def test_a_request_in_pieces(server: Running) -> None:
    whole = infer([1, 2], extra=b"Connection: close\r\n")
    answer = server.send(*(whole[i : i + 40] for i in range(0, len(whole), 40)), pause=0.005)
    assert statuses(answer) == [200]


def test_a_chunked_body(server: Running) -> None:
    body = json.dumps(asked([1, 2])).encode()
    head = b"POST /v2/models/points/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7))
    assert statuses(server.send(head + chunks + b"0\r\n\r\n")) == [200]


def test_a_client_that_asks_before_it_sends(server: Running) -> None:
    body = json.dumps(asked([1, 2])).encode()
    head = b"POST /v2/models/points/infer HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nConnection: close\r\n"
    assert statuses(server.send(head + b"Content-Length: %d\r\n\r\n" % len(body), body, pause=0.05)) == [100, 200]


def test_http_1_0(server: Running) -> None:
    assert statuses(server.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n")) == [200]


def test_an_upgrade_is_not_followed(server: Running) -> None:
    upgrade = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert statuses(server.send(upgrade + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) == [200, 400]
    connect = b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert statuses(server.send(connect + LIVE)) == [400]


@pytest.mark.parametrize("field", [b"Connection", b"Proxy-Connection"])
@pytest.mark.parametrize("pause", [0.0, 0.05])
@pytest.mark.parametrize("connection", [b"Upgrade, HTTP2-Settings", b"keep-alive, upgrade"])
def test_a_request_that_offers_an_upgrade_keeps_its_body(server: Running, field: bytes, connection: bytes, pause: float) -> None:
    """Java's client and `curl --http2` offer one with their first request, whatever it is."""
    offer = infer([1, 2], extra=b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n" + field + b": " + connection + b"\r\n")
    head, _, body = offer.partition(b"\r\n\r\n")
    sent = [head + b"\r\n\r\n", body + offer, LAST] if pause else [offer + offer + LAST]
    assert statuses(server.send(*sent, pause=pause)) == [200, 200, 200]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 2000 + b"\r\n\r\n", 431),
        (b"GET /" + b"b" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: \r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length : 5\r\n\r\nhello", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\0c\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 400),
    ],
)
def test_what_is_refused_ends_the_connection(server: Running, sent: bytes, status: int) -> None:
    answer = server.send(LIVE + sent)
    assert statuses(answer) == [200, status]
    assert b"Connection: close" in answer
    assert b'{"error":' in answer
    assert statuses(server.send(LAST)) == [200]


def test_what_follows_a_body_changes_nothing(server: Running) -> None:
    body = json.dumps(asked([1, 2])).encode()
    head = b"POST /v2/models/points/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    trailer = b"0\r\nContent-Encoding: gzip\r\nInference-Header-Content-Length: 3\r\n\r\n"
    assert statuses(server.send(head + b"%x\r\n%s\r\n" % (len(body), body) + trailer)) == [200]


@pytest.mark.parametrize(
    "extra", [b"Content-Encoding: br\r\nContent-Encoding: gzip\r\n", b"Inference-Header-Content-Length: 5\r\n" * 2]
)
def test_a_header_that_is_there_twice_overrides_nothing(server: Running, extra: bytes) -> None:
    assert statuses(server.send(infer([1, 2], extra=extra + b"Connection: close\r\n"))) == [400]


def test_a_body_that_turns_out_too_large(server: Running) -> None:
    head = b"POST /v2/models/points/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"4e20\r\n" + b" " * 20_000 + b"\r\n"
    assert statuses(server.send(head, *[chunk] * 8)) == [413]


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ",
    ],
)
def test_a_header_without_end(server: Running, start: bytes) -> None:
    assert statuses(server.send(start, *[b"b" * 500] * 8, pause=0.01)) == [431]


@pytest.mark.parametrize("start", [b"GET /", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"])
def test_a_client_that_never_ends_its_request(server: Running, start: bytes) -> None:
    began = time.monotonic()
    assert statuses(server.send(start, *[b"b"] * 10, pause=0.1)) == [408]
    assert time.monotonic() - began < 5


def test_an_idle_connection_is_closed(server: Running) -> None:
    began = time.monotonic()
    assert statuses(server.send(LIVE)) == [200]
    assert time.monotonic() - began < 5


def test_a_client_that_does_not_read(points_bundle: Path) -> None:
    """It fills the buffers of both sides, is cut off, and costs nothing of the others."""
    with running(points_bundle, slow=0.3) as server, socket.create_connection((server.host, server.port)) as raw:
        raw.settimeout(0.2)
        sent = infer([1, 2], id="a" * 20_000) * 20
        with pytest.raises((TimeoutError, ConnectionError)):
            raw.sendall(sent * 100)
        assert statuses(server.send(LAST)) == [200]
        wait = time.monotonic() + 5
        while server.server.connections and time.monotonic() < wait:
            time.sleep(0.05)
        assert not server.server.connections


def test_too_many_bytes_of_bodies(points_bundle: Path) -> None:
    """Two clients that together send more than is set aside, though each of them may."""
    with running(points_bundle, max_body=100_000, max_bodies=150_000) as server:
        assert statuses(server.send(infer([1, 2], extra=b"Connection: close\r\n"))) == [200]
        start = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b" " * 90_000
        with socket.create_connection((server.host, server.port)) as first:
            first.sendall(start)
            time.sleep(0.1)
            answer = server.send(start)
            assert statuses(answer) == [503]
            assert b"Retry-After: 1" in answer
        time.sleep(0.1)
        assert server.server.ledger.held == 0
        assert statuses(server.send(infer([1, 2], extra=b"Connection: close\r\n"))) == [200]


def test_of_too_many_connections_the_one_that_is_silent_longest_is_closed(points_bundle: Path) -> None:
    """The newest was closed, so strangers who only connected kept everybody out."""
    with running(points_bundle, max_connections=2) as server, ExitStack() as stack:

        def connect() -> socket.socket:
            made = stack.enter_context(socket.create_connection((server.host, server.port), timeout=10))
            time.sleep(0.05)
            return made

        first, second = connect(), connect()
        first.sendall(LIVE)  # so the other is silent for longer
        assert statuses(first.recv(10_000)) == [200]
        assert statuses(server.send(LAST)) == [200]
        assert not second.recv(1)
        first.sendall(LAST)
        assert statuses(first.recv(10_000)) == [200]


def test_a_connection_that_is_answered_is_kept(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 0.5)
    with running(points_bundle, max_connections=1) as server, ExitStack() as stack:
        busy = stack.enter_context(socket.create_connection((server.host, server.port), timeout=10))
        busy.sendall(infer([1, 2]))
        time.sleep(0.1)
        with pytest.raises(ConnectionError):
            server.send(LIVE, LIVE, pause=0.1)  # the second finds that it was closed
        assert statuses(busy.recv(10_000)) == [200]


def test_work_of_a_client_that_went_away_is_dropped(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = slow(monkeypatch, 0.2)
    with running(points_bundle, instances=1) as server:
        before = len(calls)
        with socket.create_connection((server.host, server.port)) as busy:
            busy.sendall(infer([1, 2]))
            time.sleep(0.05)
            for _ in range(5):
                with socket.create_connection((server.host, server.port)) as gone:
                    gone.sendall(infer([1, 2], [3, 4]))
            time.sleep(0.05)
            assert statuses(busy.recv(10_000)) == [200]
        assert statuses(server.send(infer([5, 6], [7, 8], [9, 1], extra=b"Connection: close\r\n"))) == [200]
        assert calls[before:] == [1, 3]
        told = server.ask("GET", "/v2/models/points/stats")[1]["model_stats"][0]["inference_stats"]
        assert (told["success"]["count"], told["fail"]["count"]) == (2, 5)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_alone_exceeds_the_memory_for_requests_is_too_large(points_bundle: Path, chunked: bool) -> None:
    """To try again later would not help its sender."""
    with running(points_bundle, max_body=200_000, max_bodies=150_000) as server:
        body = b"%x\r\n" % 190_000 + b" " * 190_000 + b"\r\n0\r\n\r\n" if chunked else b" " * 100
        kind = "Transfer-Encoding: chunked" if chunked else "Content-Length: 190000"
        answer = server.send(f"POST {INFER} HTTP/1.1\r\nHost: {server.url}\r\n{kind}\r\n\r\n".encode(), body)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert server.metric("attar_ledger_bytes") == 0


def test_a_long_body_for_a_model_that_is_not_there(points_bundle: Path) -> None:
    with running(points_bundle, model_control=True) as server:
        assert server.ask("POST", "/v2/models/other/infer", b" " * 70_000)[0] == 404
        assert server.ask("POST", "/v2/models/points/nothing", b" " * 70_000)[0] == 404
        assert server.ask("POST", "/v2/repository/models/points/unload")[0] == 200
        assert server.ask("POST", INFER, b" " * 70_000)[0] == 503


def test_a_chunked_body_to_load_a_model_that_is_not_there(points_bundle: Path) -> None:
    """It was taken for a request to the model, which then was looked for."""
    load = b"POST /v2/repository/models/points/load HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    with running(points_bundle, model_control=True) as server:
        assert server.ask("POST", "/v2/repository/models/points/unload")[0] == 200
        assert statuses(server.send(load + b"Connection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n")) == [200]
        assert statuses(server.send(load.replace(b"Transfer-Encoding: chunked", b"Content-Length: 70000") + b"\r\n")) == [413]


def test_a_closed_reservation_takes_nothing() -> None:
    """A thread may still read for a client that is gone."""
    ledger = MemoryLedger(100)
    reservation = ledger.open_reservation()
    reservation.add(40)
    reservation.close()
    with pytest.raises(DeadlineError):
        reservation.add(1)
    assert ledger.held == 0


def test_bytes_that_came_at_once_allow_no_silence_behind_them(points_bundle: Path) -> None:
    start = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
    with running(points_bundle, max_body=2_000_000, slow=0.3) as server:
        assert statuses(server.send(start + b" " * 1_500_000)) == [408]
