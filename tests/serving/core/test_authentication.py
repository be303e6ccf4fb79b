"""Tokens, TLS, and pages of other sites: who gets an answer and who does not."""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from pydantic import ValidationError
from tritonclient import grpc as triton_grpc

from attar.cli.serve import serve
from attar.pipeline.core.errors import AttarError, RecipeError
from attar.serving.core.authenticator import Authenticator
from attar.serving.core.hosts import is_loopback
from attar.serving.core.logs import LINES
from attar.serving.core.settings import Settings
from tests.support.serving.certificates import make_certificate
from tests.support.serving.fuzz_grpc import streams
from tests.support.serving.fuzz_http import framed
from tests.support.serving.server_process import run_server
from tests.support.serving.serving_parts import Running, asked, running, until

TOKEN, OTHER = "correct-horse-battery", "another.one~of/16+characters=="
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "tokens"
    made.write_text(f"{TOKEN}\n\n{OTHER}\r\n")
    return made


@pytest.fixture
def server(points_bundle: Path, file: Path) -> Iterator[Running]:
    with running(points_bundle, token_file=file, grpc_port=0) as made:
        yield made


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", f"Bearer {OTHER}"])
def test_a_token_of_the_file_opens(server: Running, given: str) -> None:
    assert server.ask("POST", "/v2/models/points/infer", asked([1, 2]), Authorization=given)[0] == 200


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}a", "Bearer é"]
)
def test_nothing_else_opens(server: Running, given: str) -> None:
    headers = {"Authorization": given} if given else {}
    for method, path in (
        ("GET", "/v2"),
        ("POST", "/v2/models/points/infer"),
        ("POST", "/v2/repository/models/points/unload"),
        ("GET", "/no"),
    ):
        status, told, sent = server.ask(method, path, None, **headers)
        assert (status, sent["www-authenticate"], sent["connection"]) == (401, "Bearer", "close")
        assert "send the header Authorization" in told["error"]
    assert server.ask("GET", "/v2/models/points/ready", **BEARER)[0] == 200


def test_two_tokens_are_none(server: Running) -> None:
    twice = f"Authorization: Bearer {TOKEN}"
    assert server.send(framed("GET", "/v2", b"", twice)).startswith(b"HTTP/1.1 200")
    assert server.send(framed("GET", "/v2", b"", twice, twice)).startswith(b"HTTP/1.1 401")


def test_strangers_do_not_fill_the_log(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A line of another cause still comes through, and all are counted."""
    before = server.server.telemetry._errors["unauthorized"]
    for _ in range(3 * LINES):
        assert server.send(framed("GET", "/v2", b"")).startswith(b"HTTP/1.1 401")
    assert server.ask("GET", "/no", **BEARER)[0] == 404
    causes = [record.__dict__["fields"]["cause"] for record in caplog.records if record.message == "refused"]
    assert causes.count("unauthorized") <= 2 * LINES  # a minute may end between them
    assert causes.count("not_found") == 1
    assert server.server.telemetry._errors["unauthorized"] - before == 3 * LINES


def test_a_token_behind_the_body_comes_too_late(server: Running) -> None:
    chunked = (
        b"POST /v2/repository/index HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    )
    assert server.send(chunked + f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()).startswith(b"HTTP/1.1 401")


def test_a_stranger_sends_no_body(server: Running) -> None:
    """Refused after its head: none of what it announces is waited for."""
    answer = server.send(
        b"POST /v2/models/points/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\nExpect: 100-continue\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 401")


def test_health_is_open_and_nothing_like_it(server: Running) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert server.ask("GET", path)[0] == 200
    for path in ("/v2/health/live/../../models/points", "/v2/health/live%2f..", "//v2/health/live", "/v2/health/live?a=/v2"):
        assert server.ask("GET", path)[0] == 401


def test_tokens_over_grpc(server: Running) -> None:
    assert server.server.grpc
    address = server.server.grpc.address.removeprefix("grpc://")
    made = triton_grpc.InferInput("x", [1, 2], "FP32")
    made.set_data_from_numpy(np.array([[1, 2]], np.float32))
    with triton_grpc.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        with pytest.raises(triton_grpc.InferenceServerException, match="needs a token") as refused:
            client.infer("points", [made])
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        assert client.infer("points", [made], headers={"authorization": f"Bearer {TOKEN}"}).as_numpy("logits").shape == (1, 3)
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError, match="needs a token"):
        list(streams(channel, b"", "wrong"))


def test_a_stranger_sends_no_message(server: Running) -> None:
    """One who never ends it is refused all the same."""
    assert server.server.grpc
    ended = threading.Event()

    def endless() -> Iterator[bytes]:
        ended.wait(10)
        yield b""

    with grpc.insecure_channel(server.server.grpc.address.removeprefix("grpc://")) as channel:
        for method in ("ModelInfer", "ModelStreamInfer", "RepositoryModelUnload"):
            call = channel.stream_stream(f"/inference.GRPCInferenceService/{method}")(endless(), timeout=5)
            with pytest.raises(grpc.RpcError, match="needs a token"):
                next(call)
        ended.set()


def test_the_file_is_read_again_when_it_changes(server: Running, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    def status() -> int:
        return server.ask("GET", "/v2", **BEARER)[0]

    def until(expected: int) -> None:
        wait = time.monotonic() + 5
        while status() != expected and time.monotonic() < wait:
            time.sleep(0.05)
        assert status() == expected

    file.write_text(OTHER, encoding="utf-8")
    until(401)
    file.write_text(f"{TOKEN}\n{OTHER}", encoding="utf-8")
    until(200)
    with caplog.at_level(logging.ERROR):
        file.write_text("short", encoding="utf-8")
        wait = time.monotonic() + 5
        while "the old tokens stay in use" not in caplog.text and time.monotonic() < wait:
            time.sleep(0.05)
        file.unlink()
        time.sleep(0.7)
    assert caplog.text.count("the old tokens stay in use") == 2
    assert "short" not in caplog.text
    assert status() == 200


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "the token file cannot be read"),
        ("\n \n", "has no token; write one a line"),
        (f"{TOKEN}\nshort", "line 2 of .* is no token: 16 characters or more"),
        ("two words of a token", "line 1 of .* is no token"),
    ],
)
def test_a_file_that_has_no_tokens(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=told) as error:
        Authenticator(Settings(token_file=path))
    assert "short" not in str(error.value)


EVERYWHERE = "0.0.0.0"  # noqa: S104  # what is warned of


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), (EVERYWHERE, False), ("::", False)]
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_an_open_address_is_warned_of(file: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate

    def warned(**settings: object) -> list[str]:
        return Authenticator(Settings.model_validate(settings)).list_warnings()

    assert warned() == []
    assert "everybody there may ask; give --token-file" in warned(host=EVERYWHERE)[0]
    assert "give --tls-cert" in warned(host=EVERYWHERE, token_file=file)[0]
    assert warned(host=EVERYWHERE, token_file=file, tls_cert=cert, tls_key=key) == []


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://localhost", 200), ("http://elsewhere", 403), ("null", 403), ("http://localhost.elsewhere", 403)],
)
def test_a_page_of_another_site_may_not_ask(points_bundle: Path, origin: str, status: int) -> None:
    with running(points_bundle, model_control=True) as server:
        answer = server.send(framed("POST", "/v2/repository/models/points/unload", b"", f"Origin: {origin}"))
        assert answer.startswith(b"HTTP/1.1 %d" % status)


LOOPBACK_HOSTS = ("127.0.0.1:8000", "localhost", "LocalHost.:8000", "[::1]:8000", "127.9.9.9")
POD = "10.42.0.7:8000"
REBOUND = "evil.example:8000"


def host_status(server: Running, host: str, path: str = "/v2/models/points", *headers: str) -> int:
    sent = "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""])
    return int(server.send(sent.encode()).split(b" ", 2)[1])


def test_a_name_that_leads_here_is_not_one_of_this_server(points_bundle: Path) -> None:
    """DNS rebinding: the page of a site whose name was led to this machine, so that both are one site for its browser."""
    with running(points_bundle) as server:
        for path in ("/", "/v2", "/v2/models/points", "/metrics", "/openapi.json", "/page/models"):
            for headers in ([], [f"Origin: http://{REBOUND}"]):
                assert host_status(server, REBOUND, path, *headers) == 403
            assert host_status(server, "", path) == 403
        assert server.ask("POST", "/v2/models/points/infer", asked([1, 2]), Host=REBOUND)[0] == 403
        told = server.ask("GET", "/v2", Host=REBOUND)[1]["error"]
        assert "--allowed-host NAME" in told
        for host in (*LOOPBACK_HOSTS, POD):
            assert host_status(server, host) == 200
            assert host_status(server, host, "/v2", f"Origin: http://{host}") == 200


def test_names_that_are_allowed(points_bundle: Path) -> None:
    with running(points_bundle, host=EVERYWHERE, allowed_host=("Models.example",)) as server:
        server.host = "127.0.0.1"
        assert host_status(server, "models.example:8000") == 200
        assert host_status(server, POD) == 200
        assert host_status(server, REBOUND) == 403
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert host_status(server, REBOUND, path) == 200  # a probe by any name


def test_tokens_make_any_name_do(server: Running) -> None:
    assert host_status(server, REBOUND) == 401
    assert host_status(server, REBOUND, "/v2", f"Authorization: Bearer {TOKEN}") == 200


@pytest.mark.parametrize("sent", [b"", b"Host: a\r\nHost: a\r\n", b"Host: a, b\r\n", b"Host: a/b\r\n", b"Host: user@a\r\n"])
def test_a_host_that_is_none_or_several(points_bundle: Path, sent: bytes) -> None:
    with running(points_bundle) as server:
        assert server.send(b"GET /v2/health/live HTTP/1.1\r\n" + sent + b"\r\n").startswith(b"HTTP/1.1 400 ")
        assert server.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_name_that_is_no_name() -> None:
    with pytest.raises(ValidationError, match=r"'models\.example:8000' is no name of a host; give --allowed-host a name alone"):
        Settings(allowed_host=("models.example:8000",))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    return make_certificate(tmp_path_factory.mktemp("tls"), "one")


def trusting(cert: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(cert))
    made.minimum_version = version
    return made


def over_tls(address: tuple[str, int], cert: Path, rows: int = 1, **more: str) -> int:
    connection = http.client.HTTPSConnection(*address, timeout=10, context=trusting(cert))
    connection.request("POST", "/v2/models/points/infer", json.dumps(asked(*[[1, 2]] * rows, **more)))
    answer = connection.getresponse()
    status, told = answer.status, json.loads(answer.read())
    assert told.get("id") == more.get("id")
    connection.close()
    return status


def test_tls(points_bundle: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with running(points_bundle, tls_cert=cert, tls_key=key, grpc_port=0, slow=0.5) as server:
        assert server.server.address.startswith("https://")
        port = int(server.server.address.rsplit(":", 1)[1])
        assert over_tls(("127.0.0.1", port), cert, rows=8) == 200
        assert over_tls(("127.0.0.1", port), cert, id="a" * 60_000) == 200  # comes back, in more than one piece
        assert server.server.grpc
        assert server.server.grpc.address.startswith("grpcs://")
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with grpc.secure_channel(server.server.grpc.address.removeprefix("grpcs://"), credentials) as channel:
            assert channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=10)
        server.host, server.port = "127.0.0.1", port
        assert b"HTTP/1.1" not in cut_off(server, framed("GET", "/v2"))  # not TLS
        began = time.monotonic()
        assert cut_off(server, b"\x16\x03\x01") == b""  # a handshake that does not end
        assert time.monotonic() - began < 5
        assert over_tls(("127.0.0.1", port), cert) == 200


def test_connections_count_before_their_handshake(certificate: tuple[Path, Path]) -> None:
    """Any number of them was held, each for the seconds of ``slow``."""
    cert, key = certificate
    with running(tls_cert=cert, tls_key=key, max_connections=3) as server, ExitStack() as stack:
        address = "127.0.0.1", int(server.server.address.rsplit(":", 1)[1])
        silent = []
        for _ in range(6):
            silent.append(stack.enter_context(socket.create_connection(address, timeout=10)))
            time.sleep(0.05)
        assert [raw.recv(1) for raw in silent[:3]] == [b""] * 3  # the longest silent are closed
        assert len(server.server.connections) == 3
        secured = stack.enter_context(trusting(cert).wrap_socket(silent[5], server_hostname="127.0.0.1"))
        secured.sendall(framed("GET", "/v2/health/live"))
        assert secured.recv(1000).startswith(b"HTTP/1.1 200 ")
        for raw in silent[3:5]:
            raw.close()
        until(lambda: len(server.server.connections) == 1)


def test_an_address_that_is_taken_with_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with running(tls_cert=cert, tls_key=key) as server:
        port = int(server.server.address.rsplit(":", 1)[1])
        with (
            pytest.raises(AttarError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*--host and --http-port"),
            running(tls_cert=cert, tls_key=key, http_port=port),
        ):
            pass


def cut_off(server: Running, content: bytes) -> bytes:
    try:
        return server.send(content)
    except ConnectionError:
        return b""


def test_files_that_are_no_certificate(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    _, other = make_certificate(tmp_path, "two")
    for given, told in (
        ({"tls_key": key}, "--tls-key is given without a certificate"),
        ({"tls_cert": cert}, "are no certificate and key in PEM that fit"),
        ({"tls_cert": cert, "tls_key": other}, "are no certificate and key in PEM that fit"),
        ({"tls_cert": tmp_path / "none"}, "are no certificate and key"),
    ):
        with pytest.raises(RecipeError, match=told):
            Authenticator(Settings.model_validate(given))


def test_sighup_reads_certificate_and_tokens_again(points_bundle: Path, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    mine = [Path(shutil.copy(path, tmp_path)) for path in certificate]
    with run_server(tmp_path, "--tls-cert", str(mine[0]), "--tls-key", str(mine[1]), str(points_bundle)) as server:
        assert over_tls(server.http, mine[0]) == 200
        fresh = make_certificate(tmp_path, "fresh")
        mine[0].write_text("nothing")
        server.process.send_signal(signal.SIGHUP)
        wait = time.monotonic() + 5
        while "the old certificate stays" not in server.log.read_text() and time.monotonic() < wait:
            time.sleep(0.05)
        assert over_tls(server.http, certificate[0]) == 200
        for old, new in zip(mine, fresh, strict=True):
            os.replace(new, old)  # noqa: PTH105  # in one step, as who renews certificates does
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert over_tls(server.http, mine[0]) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            over_tls(server.http, certificate[0])


def test_the_command_refuses_a_file_without_tokens(points_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attar", "serve", "--token-file", str(tmp_path / "none"), str(points_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the token file cannot be read")


def test_every_limit_of_the_command_is_a_setting_with_the_same_default() -> None:
    told = {str(option.name): option.to_info_dict()["default"] for option in serve.params}
    for name, default in told.items():
        if default is not None and name in Settings.model_fields:
            assert Settings.model_fields[name].default == default, name
    assert {name for name in Settings.model_fields if name.startswith("max_")} <= told.keys()


def test_the_command_warns(points_bundle: Path, tmp_path: Path) -> None:
    with run_server(tmp_path, "--host", EVERYWHERE, str(points_bundle)) as server:
        assert "0.0.0.0 is reached from other machines, and everybody there may ask" in server.log.read_text()
