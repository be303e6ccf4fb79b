"""A real server in a thread, and bundles to serve."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
import uvloop
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton
from tritonclient.grpc import service_pb2

from attar.bundle import checksums
from attar.models.task import Array, Arrays, Predict
from attar.serving.core.settings import Settings
from attar.serving.models import model
from attar.serving.models.engines import Engines, open_engines
from attar.serving.models.observer import Observer
from attar.serving.models.sources import parse_sources
from attar.serving.server import Server

T = TypeVar("T")
METHOD = "/inference.GRPCInferenceService/"
INFER = "/v2/models/points/infer"


class Running:
    """A server and the loop that it runs on, in another thread."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop
        self.host, port = server.address.partition("://")[2].rsplit(":", 1)
        self.port = int(port)
        self.url = f"{self.host}:{self.port}"

    @property
    def grpc_url(self) -> str:
        assert self.server.grpc
        return self.server.grpc.address.removeprefix("grpc://")

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def ask(self, method: str, path: str, content: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, what JSON says (None for an empty body, text for another type), and the headers."""
        connection = HTTPConnection(self.host, self.port, timeout=20)
        body = content if content is None or isinstance(content, bytes) else json.dumps(content)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        told = answer.read()
        connection.close()
        got = {name.lower(): value for name, value in answer.getheaders()}
        parse = json.loads if got["content-type"] == "application/json" else bytes.decode
        return answer.status, parse(told) if told else None, got

    def scrape(self, accept: str = "") -> list[Metric]:
        """``/metrics`` as Prometheus reads it."""
        with closing(HTTPConnection(self.host, self.port, timeout=20)) as connection:
            connection.request("GET", "/metrics", headers={"Accept": accept})
            answer = connection.getresponse()
            assert answer.status == 200
            parse = openmetrics if "openmetrics" in (answer.getheader("Content-Type") or "") else prometheus
            return list(parse(answer.read().decode()))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels among theirs."""
        samples = [each for family in self.scrape() for each in family.samples if each.name == name]
        return sum(each.value for each in samples if labels.items() <= each.labels.items())

    def send(self, *pieces: bytes, pause: float = 0.0) -> bytes:
        """Raw bytes in, whatever comes until the server closes out."""
        with socket.create_connection((self.host, self.port), timeout=10) as raw:
            for piece in pieces:
                raw.sendall(piece)
                time.sleep(pause)
            return b"".join(iter(lambda: raw.recv(65536), b""))


@contextmanager
def running(*bundles: str | Path, **settings: Any) -> Iterator[Running]:
    """``observers`` among the settings are handed to the server itself."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(started(bundles, settings), loop).result(60)
    made = Running(server, loop)
    try:
        yield made
    finally:
        made.call(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def started(bundles: Sequence[str | Path], settings: dict[str, Any]) -> Server:
    observers: Sequence[Observer] = settings.pop("observers", ())
    chosen = Settings(**{"http_port": 0, "grpc_port": None} | settings)
    server = Server(parse_sources([str(path) for path in bundles]), chosen, observers)
    await server.start()
    return server


def another(bundle: Path, to: Path) -> Path:
    """The same with another card, so another version."""
    shutil.copytree(bundle, to)
    (to / "README.md").write_text(f"{to.name}\n")
    checksums.write_checksums(to)
    return to


def spoil(bundle: Path) -> None:
    """One bit of the engine."""
    file = bundle / "engines" / "onnxruntime" / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def wrapped(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Predict], Predict]) -> None:
    """Every bundle that is opened from now on runs in threads, through ``wrap``."""

    def opened(path: Path, settings: Settings) -> Engines:
        made = open_engines(path, settings)
        return replace(made, predicts=[wrap(predict) for predict in made.predicts], inline=False)

    monkeypatch.setattr(model, "open_engines", opened)


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Every call takes longer; the list gets its rows."""
    calls: list[int] = []

    def wrap(predict: Predict) -> Predict:
        def delayed(inputs: Arrays) -> dict[str, Array]:
            calls.append(len(inputs["x"]))
            time.sleep(seconds)
            return predict(inputs)

        return delayed

    wrapped(monkeypatch, wrap)
    return calls


@contextmanager
def triton_client(url: str) -> Iterator[Any]:
    """Triton's own. It closes itself again when it is collected, in whichever thread that is, which gevent does not allow."""
    made = triton.InferenceServerClient(url)
    try:
        yield made
    finally:
        made.close()
        made.close = lambda: None


@contextmanager
def triton_grpc_client(server: Running) -> Iterator[Any]:
    """Triton's own client of a server's gRPC port."""
    with triton_grpc.InferenceServerClient(server.grpc_url) as made:
        yield made


@contextmanager
def channel(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc_url) as made:
        yield made


def ask(server: Running, sent: Any, method: str = "ModelInfer", **more: Any) -> Any:
    """A request over gRPC by hand: bytes, or a message, which is answered by one of Triton's."""
    with channel(server) as made:
        content = sent if isinstance(sent, bytes) else sent.SerializeToString()
        answered = getattr(service_pb2, f"{method}Response", service_pb2.ServerLiveResponse)
        return answered.FromString(made.unary_unary(METHOD + method)(content, timeout=20, **more))


def asked(*rows: Sequence[float], **more: Any) -> dict[str, Any]:
    """A request for points in JSON."""
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": rows}], **more}


def infer_texts(server: Running, *rows: str) -> Array:
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [len(rows)], "data": list(rows)}]}
    status, answer, _ = server.ask("POST", "/v2/models/points-raw/infer", body)
    assert status == 200, answer
    return np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def wait_for_compared(server: Running, count: int) -> None:
    """Wait until so many requests were."""
    until(lambda: server.metric("attar_shadow_requests_total", outcome="compared") == count)


def wait_for_status(server: Running, path: str, status: int) -> None:
    until(lambda: server.ask("GET", path)[0] == status)


def loaded_version(server: Running) -> str:
    """Return the version of the model of points that answers now."""
    return str(server.ask("GET", "/v2/models/points")[1]["versions"][0])


def wait_for_new_version(server: Running, before: str) -> None:
    """Wait until another version than ``before`` is loaded."""
    for _ in range(200):
        if loaded_version(server) != before:
            return
        time.sleep(0.05)
    raise AssertionError("no other version was loaded")
