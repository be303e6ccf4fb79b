"""Bench and load over TLS and gRPC: what is measured there, and what is said where nothing is."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from attar.cli.main import main
from attar.pipeline.core.errors import AttarError
from attar.serving.grpc.messages import ModelInferResponse
from attar.serving.load import server as servers
from attar.serving.load.client import Address, load_trust, parse_address
from attar.serving.load.client import build_request as over_http
from attar.serving.load.client_grpc import build_message, read_message
from attar.serving.load.load_grpc import GrpcLoad, open_event_loop
from attar.serving.load.load_http import HttpLoad
from attar.serving.load.schedule import Poisson
from attar.serving.load.server import LoadSpec, bench_server, draw_figure, format_table
from tests.support.serving.certificates import make_certificate
from tests.support.serving.server_process import ServerProcess, run_server
from tests.support.serving.serving_parts import running, slow

QUICK: dict[str, Any] = {"batches": (1, 8), "connections": (1, 2), "seconds": 0.05}
TOKEN = "correct-horse-battery"  # noqa: S105  # opens nothing but the server of a test
POINT = build_message("points", {"x": np.array([[1, 2]], np.float32)})
FORMS = {"http": ("json", "binary"), "https": ("json", "binary"), "grpc": ("binary",), "grpcs": ("binary",)}
SCHEMES = tuple(FORMS)


def url(server: ServerProcess, scheme: str) -> str:
    return f"{scheme}://{server.grpc}" if "grpc" in scheme else f"{scheme}://{server.http[0]}:{server.http[1]}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    return make_certificate(tmp_path_factory.mktemp("tls"), "one")


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokens") / "tokens"
    made.write_text(f"{TOKEN}\n")
    return made


@pytest.fixture(scope="module")
def plain(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with run_server(tmp_path_factory.mktemp("plain"), str(points_bundle)) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(
    points_bundle: Path, certificate: tuple[Path, Path], token_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    cert, key = map(str, certificate)
    options = ("--tls-cert", cert, "--tls-key", key, "--token-file", str(token_file))
    with run_server(tmp_path_factory.mktemp("guarded"), *options, str(points_bundle)) as made:
        yield made


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with open_event_loop() as made:
        yield made


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_transport_in_both_loops(
    scheme: str,
    points_bundle: Path,
    plain: ServerProcess,
    guarded: ServerProcess,
    certificate: tuple[Path, Path],
    token_file: Path,
) -> None:
    if scheme.endswith("s"):
        asked, server = LoadSpec.with_token(token_file, ca=certificate[0], **QUICK), guarded
    else:
        asked, server = LoadSpec.with_token(None, **QUICK), plain
    facts = bench_server(points_bundle, url(server, scheme), asked)
    shown = [(row["loop"], row["form"], row["batch"], row["connections"]) for row in facts["rows"]]
    each = [("closed", 1), ("closed", 2), ("open", 2)]
    assert shown == [(loop, form, batch, c) for form in FORMS[scheme] for batch in (1, 8) for loop, c in each]
    for row in facts["rows"]:
        assert row["errors"] == {}
        assert 0 < row["p50"] <= row["p99"]
        assert row["cpu"] > 0
    json.dumps(facts, allow_nan=False)
    assert format_table(facts).splitlines()[0].endswith(" own µs  errors")
    assert f"at {url(server, scheme)}" in draw_figure(facts)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nobody_there(scheme: str, points_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(AttarError, match=rf"no answer from 127\.0\.0\.1:{port}: .*refused.*start `attar serve`"):
        bench_server(points_bundle, f"{scheme}://127.0.0.1:{port}", LoadSpec(**QUICK))


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_certificate_that_is_not_trusted(scheme: str, points_bundle: Path, guarded: ServerProcess, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path, "other")
    for ca in (None, other):
        with pytest.raises(AttarError, match=r"is not trusted: .*give that of who signed it with --ca"):
            bench_server(points_bundle, url(guarded, scheme), LoadSpec(ca=ca, **QUICK))


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_certificate_of_another_host(
    scheme: str, points_bundle: Path, guarded: ServerProcess, certificate: tuple[Path, Path]
) -> None:
    """It is for 127.0.0.1, and nothing turns that off."""
    elsewhere = url(guarded, scheme).replace("127.0.0.1", "localhost")
    with pytest.raises(AttarError, match=r"of localhost:\d+ is not trusted: .*[Hh]ostname"):
        bench_server(points_bundle, elsewhere, LoadSpec(ca=certificate[0], **QUICK))


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_token_that_is_missing(
    scheme: str, points_bundle: Path, guarded: ServerProcess, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0123456789abcdef")
    for file in (None, wrong):
        with pytest.raises(AttarError, match=r"(401|UNAUTHENTICATED): .*give the server's token with --token-file"):
            bench_server(points_bundle, url(guarded, scheme), LoadSpec.with_token(file, ca=certificate[0], **QUICK))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_model_that_is_not_there(
    scheme: str,
    points_bundle: Path,
    plain: ServerProcess,
    guarded: ServerProcess,
    certificate: tuple[Path, Path],
    token_file: Path,
) -> None:
    server, ca = (guarded, certificate[0]) if scheme.endswith("s") else (plain, None)
    with pytest.raises(AttarError, match=r"(404|NOT_FOUND): .*nobody"):
        bench_server(points_bundle, url(server, scheme), LoadSpec.with_token(token_file, ca=ca, model="nobody", **QUICK))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_other_transport(
    scheme: str, points_bundle: Path, plain: ServerProcess, guarded: ServerProcess, certificate: tuple[Path, Path]
) -> None:
    """In clear to who speaks TLS, and the other way round."""
    secure = scheme.endswith("s")
    with pytest.raises(AttarError, match=r"there is no (TLS with|answer from) 127\.0\.0\.1"):
        bench_server(
            points_bundle, url(plain if secure else guarded, scheme), LoadSpec(ca=certificate[0] if secure else None, **QUICK)
        )


def test_the_port_of_the_other(points_bundle: Path, plain: ServerProcess) -> None:
    with pytest.raises(AttarError, match=r"which is no HTTP/1\.1; give the address of its HTTP port"):
        bench_server(points_bundle, f"http://{plain.grpc}", LoadSpec(**QUICK))
    with pytest.raises(AttarError, match=r"there is no answer from .*http1\.x server"):
        bench_server(points_bundle, url(plain, "http").replace("http", "grpc"), LoadSpec(**QUICK))


def test_a_file_of_certificates_that_is_none(points_bundle: Path, plain: ServerProcess, token_file: Path) -> None:
    for scheme in ("https", "grpcs"):
        with pytest.raises(AttarError, match="holds no certificate in PEM"):
            bench_server(points_bundle, url(plain, scheme), LoadSpec(ca=token_file, **QUICK))
    for scheme in ("http", "grpc"):
        with pytest.raises(AttarError, match=f"--ca is given, and the url is {scheme}://"):
            bench_server(points_bundle, url(plain, scheme), LoadSpec(ca=token_file, **QUICK))


def test_the_command(points_bundle: Path, guarded: ServerProcess, certificate: tuple[Path, Path], token_file: Path) -> None:
    of_server = ["--ca", str(certificate[0]), "--token-file", str(token_file)]
    told = CliRunner().invoke(main, ["bench", str(points_bundle), *of_server, "--connections", "4"])
    assert told.exit_code == 2
    assert "--connections, --token-file, --ca are for measuring a server; add --url" in told.output
    told = CliRunner().invoke(main, ["bench", str(points_bundle), "--figure", "nowhere/figure.svg"])
    assert (told.exit_code, "there is no folder nowhere; make it" in told.output) == (2, True)
    quick = ["--seconds", "0.05", "--connections", "1", "--batch", "1"]
    done = CliRunner().invoke(main, ["bench", str(points_bundle), "--url", url(guarded, "grpcs"), *of_server, *quick])
    assert done.exit_code == 0, done.output
    assert [line.split()[:2] for line in done.output.splitlines()[1:3]] == [["closed", "binary"], ["open", "binary"]]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_goes_leaves_what_was_measured(
    scheme: str, points_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = servers.make_row
    with run_server(tmp_path, str(points_bundle)) as server:

        def last(*about: Any, **more: Any) -> dict[str, Any]:
            server.process.kill()
            server.process.wait()
            monkeypatch.setattr("attar.serving.load.load_grpc.PATIENCE", 0.2)
            return measured(*about, **more)

        monkeypatch.setattr("attar.serving.load.server.make_row", last)
        arguments = ["bench", str(points_bundle), "--url", url(server, scheme), "--batch", "1", "--seconds", "0.05", "--json"]
        done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1, done.output
    facts = json.loads(done.stdout)
    assert len(facts["rows"]) == 1
    assert facts["rows"][0]["rate"] > 0
    assert facts["ended"] in done.stderr


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_is_opened_again(
    scheme: str, plain: ServerProcess, guarded: ServerProcess, certificate: tuple[Path, Path]
) -> None:
    """For each request, where the server closes it after each."""
    server, tls = (guarded, load_trust(certificate[0])) if scheme == "https" else (plain, None)
    where = parse_address(url(server, scheme))
    about = {"Authorization": f"Bearer {TOKEN}", "Connection": "close"}
    request = over_http("points", {"x": np.array([[1, 2]], np.float32)}, "json", about)
    with HttpLoad(where, [request.encode(str(where))], 2, tls) as made:
        found = made.run_closed_loop(0.2)
    assert found.errors == {}
    assert len(found.latencies) > 4


# -- the loads ----------------------------------------------------------------------------------------------------------


def grpc_load(runner: asyncio.Runner, where: str, connections: int, message: bytes = POINT) -> GrpcLoad:
    return GrpcLoad(runner, parse_address(f"grpc://{where}"), [message], connections)


def test_the_server_counts_as_many_as_the_generator(plain: ServerProcess, runner: asyncio.Runner) -> None:
    def count() -> int:
        with closing(HTTPConnection(*plain.http, timeout=20)) as connection:
            connection.request("GET", "/v2/models/points/stats")
            return int(json.loads(connection.getresponse().read())["model_stats"][0]["inference_count"])

    before = count()
    with grpc_load(runner, plain.grpc, 3) as made:
        found = made.run_closed_loop(0.2)
        again = made.run_open_loop(100, 0.3)
    assert count() - before == len(found.latencies) + len(again.latencies)
    assert len(found.latencies) > 10
    assert len(again.latencies) == len(Poisson(0, 0.3, 100)._times)
    assert found.errors == again.errors == {}
    assert 0 < found.busy <= 1
    assert found.cpu > 0


def test_refusals_are_errors_and_no_latencies(plain: ServerProcess, runner: asyncio.Runner) -> None:
    with grpc_load(runner, plain.grpc, 2, build_message("nobody", {"x": np.zeros((1, 2), np.float32)})) as made:
        found = made.run_closed_loop(0.05)
    assert found.errors.keys() == {"NOT_FOUND"}
    assert found.rate == 0


def test_waiting_for_a_connection_counts(points_bundle: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 0.02)
    with running(points_bundle, grpc_port=0, instances=1) as server, grpc_load(runner, server.grpc_url, 1) as made:
        found = made.run_open_loop(100, 0.4)
    assert found.latencies.max() > 0.15
    assert found.seconds > 0.02 * len(found.latencies)


def test_an_answer_that_never_comes_is_told(points_bundle: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.serving.load.load_grpc.PATIENCE", 0.3)
    slow(monkeypatch, 1.0)
    with running(points_bundle, grpc_port=0, instances=1) as server, grpc_load(runner, server.grpc_url, 1) as made:
        found = made.run_closed_loop(0.01)
    assert found.errors == {"unanswered": 1}


def test_no_connection_over_grpc(runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.serving.load.load_grpc.PATIENCE", 0.2)
    with pytest.raises(AttarError, match=r"no connection to 127\.0\.0\.1:1 within 0\.2 s"):
        GrpcLoad(runner, Address("127.0.0.1", 1, "grpc"), [POINT], 1)


def test_a_connection_each_over_grpc(plain: ServerProcess, runner: asyncio.Runner) -> None:
    """As over HTTP: else one connection would answer for all."""
    port = int(plain.grpc.rsplit(":", 1)[1])
    before = established(port)
    with grpc_load(runner, plain.grpc, 3) as made:
        made.run_closed_loop(0.05)
        assert established(port) - before == 3


def established(port: int) -> int:
    """TCP connections to a port of this machine."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text(encoding="utf-8").splitlines()[1:]]
    rows = [line.split() for line in lines]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_answers_as_values() -> None:
    """Others than attar may send them so."""
    described = {"name": "y", "datatype": "INT32", "shape": [1, 2], "contents": {"int_contents": [3, -4]}}
    assert read_message(ModelInferResponse(outputs=[described]).SerializeToString())["y"].tolist() == [[3, -4]]
    for wrong in (b"\xff", ModelInferResponse(outputs=[described | {"datatype": "BF16"}]).SerializeToString()):
        with pytest.raises(AttarError, match="not one of the Open Inference Protocol"):
            read_message(wrong)


def test_what_this_machine_trusts() -> None:
    assert load_trust(None).verify_mode.name == "CERT_REQUIRED"
    assert load_trust(None).check_hostname
