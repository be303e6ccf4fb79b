"""The command: when it is ready, what it refuses, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from tests.support.bundles.packaging import edit_manifest
from tests.support.processes.loaded_packages import HEAVY
from tests.support.serving.serve_command import ATTAR_SERVE, run_refused_serve, run_serve_command
from tests.support.serving.serving_parts import asked, spoil


def infer(port: int) -> int:
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/v2/models/points/infer", json.dumps(asked([1, 2])))
        return connection.getresponse().status


def peak(pid: int) -> int:
    """Kilobytes that were resident at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1])


def test_it_serves_without_what_training_needs_and_ends_on_sigterm(points_bundle: Path) -> None:
    with run_serve_command(str(points_bundle)) as (process, port):
        assert infer(port) == 200
        mapped = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        assert "onnxruntime" in mapped
        assert "libtorch" not in mapped
        assert "onnx_cpp2py" not in mapped
        assert "cygrpc" not in mapped
        assert peak(process.pid) < 160_000
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_nothing_heavy_is_imported_in_all_its_life(points_bundle: Path, tmp_path: Path) -> None:
    """Every import of the process is written down, whatever it is asked for."""
    command = [*ATTAR_SERVE, "--http-port", "0", "--grpc-port", "0", "--shadow", "fp32", "--shadow-rate", "1", "--model-control"]
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [command[0], "-X", "importtime", *command[1:], str(points_bundle)], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout
        http, grpc = re.findall(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        live(int(http), int(grpc))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    imported = set(re.findall(r"^import time:.*\| +(\w+)", log.read_text(), re.MULTILINE))
    assert {"attar", "onnxruntime", "grpc", "prometheus_client"} <= imported
    assert not imported & (HEAVY - {"onnxruntime"})


def live(http: int, grpc: int) -> None:
    """Ask for everything that a server has."""
    assert infer(http) == 200
    with closing(HTTPConnection("127.0.0.1", http, timeout=20)) as connection:
        for path in ("/", "/metrics", "/openapi.json", "/v2/models/points", "/v2/models/points/stats", "/v2/health/ready"):
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, len(answer.read()) > 0) == (200, True), path
        connection.request("POST", "/v2/repository/models/points/load", "{}")
        assert connection.getresponse().status == 200
    with triton.InferenceServerClient(f"127.0.0.1:{grpc}") as made:
        given = triton.InferInput("x", [1, 2], "FP32").set_data_from_numpy(np.ones((1, 2), np.float32))
        assert made.infer("points", [given]).as_numpy("logits").shape == (1, 3)


@contextmanager
def serving_with_files(limit: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The same under limits of open files, as ``ulimit`` sets them."""
    command = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *ATTAR_SERVE, "--http-port", "0", "--no-grpc", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, int(process.stdout.readline().rsplit(":", 1)[1])
        finally:
            process.terminate()


def test_fewer_connections_than_were_asked_for_are_told(points_bundle: Path) -> None:
    """With 64 descriptors and 80 clients, one after the other: each is answered, and the connection that is silent longest gives
    way, which the log says."""
    with ExitStack() as stack:
        process, port = stack.enter_context(serving_with_files("-n 64", str(points_bundle)))
        connections = [stack.enter_context(closing(HTTPConnection("127.0.0.1", port, timeout=20))) for _ in range(80)]
        answered = sum(is_answered(connection) for connection in connections)
        process.terminate()
        assert process.stderr
        log = [json.loads(line) for line in process.stderr]
    messages = [line["message"] for line in log]
    assert answered == 80
    assert any("32 connections" in message and "64 files" in message for message in messages)
    assert sum(line.get("error", "").startswith("32 connections are open") for line in log) == 48


def is_answered(connection: HTTPConnection) -> bool:
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().read() == b'{"live":true}'
    except OSError:  # closed at once
        return False


def test_the_limit_of_open_files_is_raised_as_far_as_connections_need(points_bundle: Path) -> None:
    with serving_with_files("-Sn 64", "--max-connections", "500", str(points_bundle)) as (process, _):
        limits = Path(f"/proc/{process.pid}/limits").read_text(encoding="utf-8")
        assert re.search(r"Max open files +532 ", limits)


@pytest.mark.parametrize(("options", "status"), [((), 200), (("--no-page",), 404)])
def test_the_page(points_bundle: Path, options: tuple[str, ...], status: int) -> None:
    with (
        run_serve_command(*options, str(points_bundle)) as (_, port),
        closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection,
    ):
        connection.request("GET", "/")
        assert connection.getresponse().status == status


def test_sigterm_fails_no_request(points_bundle: Path) -> None:
    """Clients that keep asking on their connections see answers, and the last of them says that it is the last."""
    found: list[list[tuple[int, str | None]]] = []

    def client(port: int) -> None:
        answers: list[tuple[int, str | None]] = []
        found.append(answers)
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        with closing(connection):
            while not answers or answers[-1][1] != "close":
                connection.request("POST", "/v2/models/points/infer", json.dumps(asked([1, 2])))
                answer = connection.getresponse()
                answer.read()
                answers.append((answer.status, answer.getheader("Connection")))

    with run_serve_command(str(points_bundle)) as (process, port):
        threads = [threading.Thread(target=client, args=(port,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert process.wait(10) == 0
    for answers in found:
        assert len(answers) > 1
        assert answers == [(200, "keep-alive")] * (len(answers) - 1) + [(200, "close")]


def test_grpc_needs_none_of_it_either_and_fails_no_request(points_bundle: Path) -> None:
    """A call in flight is answered, one behind it is refused so that clients go elsewhere."""
    found: list[Any] = []

    def client(port: int) -> None:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as made:
            asked_for = triton.InferInput("x", [1, 2], "FP32").set_data_from_numpy(np.ones((1, 2), np.float32))
            while "UNAVAILABLE" not in str(found[-1:]):
                try:
                    found.append(made.infer("points", [asked_for]).as_numpy("logits").shape)
                except InferenceServerException as error:
                    found.append(str(error))

    with run_serve_command(str(points_bundle), grpc="--grpc-port=0") as (process, port):
        thread = threading.Thread(target=client, args=(port,))
        thread.start()
        time.sleep(0.3)
        mapped = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
        assert "cygrpc" in mapped
        assert "libtorch" not in mapped
        assert "onnx_cpp2py" not in mapped
        assert peak(process.pid) < 160_000
        process.send_signal(signal.SIGTERM)
        thread.join()
        assert process.wait(10) == 0
    assert len(found) > 1
    assert found[:-1] == [(1, 3)] * (len(found) - 1)


@pytest.fixture
def bundle(points_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(points_bundle, tmp_path / "mine"))


def test_a_bundle_that_is_not_fit_ends_it_with_4_and_one_line(bundle: Path) -> None:
    spoil(bundle)
    code, said = run_refused_serve(str(bundle))
    assert code == 4
    assert re.fullmatch("error: .*model\\.onnx .*\\n", said)


def test_an_ungated_bundle_needs_leave_and_says_so(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest["verdict"].update(verdict="undecided"))
    code, said = run_refused_serve(str(bundle))
    assert (code, "'undecided'" in said) == (4, True)
    with run_serve_command("--allow-ungated", str(bundle)) as (_, port):
        with closing(HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/v2/models/points")
            told = json.loads(connection.getresponse().read())
        assert (told["platform"], told["properties"]["gates"]) == ("onnxruntime_ungated", "ungated")


def test_the_log_is_json_and_a_shadow_shows_in_the_metrics(points_bundle: Path) -> None:
    with run_serve_command("--shadow", "fp32", "--shadow-rate", "1", "--access-log", str(points_bundle)) as (process, port):
        assert infer(port) == 200
        with closing(HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/metrics")
            page = connection.getresponse().read().decode()
        assert "attar_shadow_samples{" in page
        process.send_signal(signal.SIGTERM)
        told = [json.loads(line) for line in process.communicate(timeout=20)[1].splitlines()]
    assert [each["target"] for each in told if each["message"] == "answered"] == ["/v2/models/points/infer", "/metrics"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--ready-correlation", "0.9"], 2, "ready_correlation"),
        (["--shadow", "none.onnx"], 4, "--shadow none.onnx"),
    ],
)
def test_a_shadow_that_cannot_be(points_bundle: Path, arguments: list[str], code: int, said: str) -> None:
    found, told = run_refused_serve(*arguments, str(points_bundle))
    assert (found, said in " ".join(told.split())) == (code, True), told


def test_a_port_that_is_taken(points_bundle: Path) -> None:
    with run_serve_command(str(points_bundle)) as (_, port):
        code, said = run_refused_serve("--http-port", str(port), str(points_bundle))
        assert code == 1
        assert f"127.0.0.1:{port}" in said
        assert "--http-port" in said
    with run_serve_command(str(points_bundle), grpc="--grpc-port=0") as (_, port):
        code, said = run_refused_serve("--grpc-port", str(port), str(points_bundle))
        assert code == 1
        assert f"127.0.0.1:{port} for gRPC" in said
        assert "--grpc-port" in said
