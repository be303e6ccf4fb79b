"""grpc.health.v1, asked by hand: the bytes are those of the protocol, not of our own messages."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient import grpc as triton

from attar.serving.grpc import health
from attar.serving.grpc import server as serving_grpc
from tests.support.serving.serving_parts import METHOD, Running, another, channel, running

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVING, NOT_SERVING, UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
TOKEN = "correct-horse-battery"  # noqa: S105  # opens nothing but the server of a test
BEARER = [("authorization", f"Bearer {TOKEN}")]


def asked(service: str) -> bytes:
    """A HealthCheckRequest; proto3 leaves out what is empty."""
    name = service.encode()
    return b"\x0a" + bytes([len(name)]) + name if name else b""


def check(server: Running, service: str = "", **more: Any) -> bytes:
    with channel(server) as made:
        return bytes(made.unary_unary(CHECK)(asked(service), timeout=20, **more))


def refused(server: Running, service: str, **more: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as error:
        check(server, service, **more)
    code: grpc.StatusCode = error.value.code()
    return code


@pytest.fixture
def served(points_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.01)
    with running(another(points_bundle, tmp_path / "mine"), grpc_port=0, model_control=True) as made:
        yield made


def test_the_server_and_its_models(served: Running) -> None:
    assert [check(served, service) for service in ("", "points", "points-raw")] == [SERVING] * 3
    assert refused(served, "lines") is grpc.StatusCode.NOT_FOUND
    assert refused(served, "\x7f" * 100) is grpc.StatusCode.NOT_FOUND
    with triton.InferenceServerClient(served.grpc_url) as client:
        client.unload_model("points")
    assert [check(served, service) for service in ("", "points")] == [SERVING, NOT_SERVING]


def test_what_changes_is_told_to_whoever_watches(served: Running) -> None:
    with channel(served) as made, triton.InferenceServerClient(served.grpc_url) as client:
        watch = made.unary_stream(WATCH)
        calls = [watch(asked(service), timeout=20) for service in ("", "points", "lines")]
        assert [next(call) for call in calls] == [SERVING, SERVING, UNKNOWN]
        client.unload_model("points")
        assert next(calls[1]) == NOT_SERVING
        client.load_model("points")
        assert next(calls[1]) == SERVING
        began = time.monotonic()
        served.call(served.server.stop())
        assert time.monotonic() - began < 5  # they did not hold it up
        for call in calls[:2]:
            assert next(call) == NOT_SERVING
            with pytest.raises(grpc.RpcError, match="the server ends") as ended:
                next(call)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


def test_who_watches_leaves_room_for_requests(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.01)
    with running(points_bundle, grpc_port=0, max_connections=16) as server, channel(server) as made:
        watch = made.unary_stream(WATCH)
        calls = [watch(b"", timeout=20) for _ in range(2)]
        assert [next(call) for call in calls] == [SERVING] * 2
        for _ in range(16):
            with pytest.raises(grpc.RpcError, match="2 watch already; ask with Check") as error:
                next(watch(b"", timeout=20))
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert check(server) == SERVING
        calls[0].cancel()
        until(lambda: serving_grpc_of(server).health.watching == 1)
        assert next(watch(b"", timeout=20)) == SERVING


def serving_grpc_of(server: Running) -> serving_grpc.GrpcServer:
    assert server.server.grpc
    return server.server.grpc


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def between(address: str) -> Iterator[tuple[str, threading.Event]]:
    """Another address for one connection, and an event from which on nothing comes through, while nothing is closed."""
    silent = threading.Event()

    def carry(source: socket.socket, to: socket.socket) -> None:
        while sent := source.recv(65536):
            if not silent.is_set():
                to.sendall(sent)
        to.shutdown(socket.SHUT_WR)

    def join() -> None:
        client, (host, _, port) = listener.accept()[0], address.partition(":")
        with client, socket.create_connection((host, int(port))) as server, ThreadPoolExecutor(2) as threads:
            threads.submit(carry, client, server)
            threads.submit(carry, server, client)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        thread.submit(join)
        yield f"127.0.0.1:{listener.getsockname()[1]}", silent


def test_a_watcher_that_is_gone_without_a_word_is_noticed(points_bundle: Path) -> None:
    """What stands between the client and the server passes on nothing more, and closes nothing."""
    with (
        running(points_bundle, grpc_port=0, idle=0.3, slow=0.3) as server,
        between(server.grpc_url) as (address, silent),
        grpc.insecure_channel(address) as made,
    ):
        call = made.unary_stream(WATCH)(b"")
        assert next(call) == SERVING
        time.sleep(1.5)
        assert serving_grpc_of(server).health.watching == 1  # it answers for as long as it is there
        silent.set()
        until(lambda: serving_grpc_of(server).health.watching == 0)
        call.cancel()


def test_a_server_that_drains_is_not_serving(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_grpc, "HOLD_SECONDS", 0.5)
    with running(points_bundle, grpc_port=0) as server, channel(server) as made:
        ask = made.unary_unary(CHECK)
        assert ask(b"", timeout=20) == SERVING
        ended = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)
        while not server.server.service.draining:
            time.sleep(0.001)
        assert ask(b"", timeout=20) == NOT_SERVING
        ended.result(20)


@pytest.fixture
def guarded(points_bundle: Path, tmp_path: Path) -> Iterator[Running]:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    with running(points_bundle, grpc_port=0, token_file=tokens) as made:
        yield made


def test_a_probe_needs_no_token_and_a_name_does(guarded: Running) -> None:
    assert check(guarded) == SERVING
    for service in ("points", "lines"):
        assert refused(guarded, service) is grpc.StatusCode.UNAUTHENTICATED
    assert check(guarded, "points", metadata=BEARER) == SERVING
    assert refused(guarded, "lines", metadata=BEARER) is grpc.StatusCode.NOT_FOUND
    with channel(guarded) as made:
        with pytest.raises(grpc.RpcError, match="needs a token"):
            next(made.unary_stream(WATCH)(b"", timeout=20))
        assert next(made.unary_stream(WATCH)(b"", timeout=20, metadata=BEARER)) == SERVING


def test_a_stranger_may_send_little(guarded: Running) -> None:
    long = b"\x0a\xff\x0f" + b"x" * 2047
    with channel(guarded) as made:
        for sent in (long, b"\x7a" + long[1:]):  # a name, and a field that nobody knows
            with pytest.raises(grpc.RpcError, match="without a token a message has 1024 bytes at most") as error:
                made.unary_unary(CHECK)(sent, timeout=20)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as error:
            made.unary_unary(CHECK)(long, timeout=20, metadata=BEARER)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", [CHECK, WATCH, METHOD + "ModelInfer", METHOD + "ModelStreamInfer"])
def test_a_call_without_a_token_is_counted_and_logged(guarded: Running, caplog: pytest.LogCaptureFixture, method: str) -> None:
    with channel(guarded) as made, pytest.raises(grpc.RpcError, match="needs a token"):
        next(made.stream_stream(method)(iter([asked("points")]), timeout=20))
    assert guarded.server.telemetry._errors == {"unauthorized": 1}
    assert [record.__dict__["fields"]["method"] for record in caplog.records] == [method.rpartition("/")[2]]


@pytest.mark.parametrize(("method", "answer"), [("ServerLive", b"\x08\x01"), ("ServerReady", b"\x08\x01")])
def test_what_needs_no_message_is_answered_unread(guarded: Running, method: str, answer: bytes) -> None:
    with channel(guarded) as made:
        for sent in (iter([]), iter([b"\xff" * 10_000_000])):
            assert made.stream_unary(METHOD + method)(sent, timeout=20) == answer


def test_silent_strangers_keep_nobody_out(points_bundle: Path, tmp_path: Path) -> None:
    """Many more than calls are taken at a time, on the connection of a probe and of a client with its token."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)

    async def work(address: str) -> None:
        async with grpc.aio.insecure_channel(address) as made:
            silent = [made.stream_unary(CHECK)() for _ in range(500)]
            await made.unary_unary(METHOD + "ServerLive")(b"", timeout=20)  # is sent behind them
            probe, live = made.unary_unary(CHECK), made.unary_unary(METHOD + "ServerLive")
            for _ in range(5):
                assert await probe(b"", timeout=5) == SERVING
                assert await probe(asked("points"), timeout=5, metadata=BEARER) == SERVING
                assert await live(b"", timeout=5)
            codes = {await each.code() for each in silent}
            assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}

    with running(points_bundle, grpc_port=0, token_file=tokens, max_connections=40) as server:
        server.call(work(server.grpc_url))


def test_an_error_that_nobody_foresaw_ends_a_watch(
    served: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health.Health, "find_status", lambda *_: 1 / 0)
    with channel(served) as made, pytest.raises(grpc.RpcError, match="the server failed; its log says why") as error:
        next(made.unary_stream(WATCH)(b"", timeout=20))
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert "Watch failed" in caplog.text


def test_what_is_no_request(served: Running) -> None:
    with channel(served) as made:
        for call in (made.unary_unary(CHECK), lambda sent: next(made.unary_stream(WATCH)(sent))):
            with pytest.raises(grpc.RpcError, match="no HealthCheckRequest") as error:
                call(b"\xff")
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
