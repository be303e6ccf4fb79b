"""A model that answers: what its observers count, once for each request, and how long it has."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from attar.serving.grpc import infer as grpc_infer
from attar.serving.protocol import response
from tests.support.serving.serving_parts import INFER, Running, ask, asked, running, slow, until

LARGE = float(np.finfo(np.float32).max)


def outcomes(server: Running) -> dict[str, float]:
    samples = [each for family in server.scrape() for each in family.samples if each.name == "attar_requests_total"]
    return {each.labels["outcome"]: each.value for each in samples if each.value}


@contextmanager
def busy_reader(server: Running) -> Iterator[threading.Event]:
    """A reader thread that reads nothing before the event."""
    go_on = threading.Event()
    server.server.service.reader_thread._executor.submit(go_on.wait, 20)
    try:
        yield go_on
    finally:
        go_on.set()


def packed(**more: Any) -> bytes:
    """A request that is read in the thread."""
    return gzip.compress(json.dumps(asked([1, 2], **more)).encode())


def test_a_request_without_a_reply_is_not_ok(points_bundle: Path) -> None:
    with running(points_bundle) as server:
        status, told, _ = server.ask("POST", INFER, asked([LARGE, LARGE], [LARGE, -LARGE]))
        assert (status, "holds Inf or NaN" in told["error"]) == (400, True)
        assert outcomes(server) == {"bad_request": 1}
        told = server.ask("GET", "/v2/models/points/stats")[1]["model_stats"][0]["inference_stats"]
        assert (told["success"]["count"], told["fail"]["count"]) == (0, 1)


def test_an_unforeseen_error_has_an_outcome(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(points_bundle) as server:
        monkeypatch.setattr(server.server.repository.find_model("points").reader, "read", lambda *_: 1 / 0)
        assert server.ask("POST", INFER, asked([1, 2]))[0] == 500
        assert outcomes(server) == {"engine_failed": 1}


def test_a_client_that_goes_while_its_request_is_read(points_bundle: Path) -> None:
    with running(points_bundle) as server, busy_reader(server):
        served, body = server.server.repository.find_model("points").served, packed()
        with socket.create_connection((server.host, server.port)) as raw:
            head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
            raw.sendall(head.encode() + body)
            until(lambda: served.active == 1)
        until(lambda: served.active == 0)
        assert outcomes(server) == {"client_gone": 1}


def release_later(go_on: threading.Event, seconds: float) -> None:
    threading.Timer(seconds, go_on.set).start()


def test_the_deadline_counts_from_the_arrival(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading and the engine take less than it each, and more together."""
    monkeypatch.setattr(grpc_infer, "SHORT_BYTES", 0)  # every message is read in the thread
    slow(monkeypatch, 0.4)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "contents": {"fp32_contents": [1, 2]}}
    message = service_pb2.ModelInferRequest(model_name="points", inputs=[tensor])
    with running(points_bundle, grpc_port=0, deadline=0.5) as server:
        with busy_reader(server) as go_on:
            release_later(go_on, 0.3)
            status, told, _ = server.ask("POST", INFER, packed(), Content_Encoding="gzip")
            assert (status, told["error"]) == (504, "there was no answer within 0.5 s")
        with busy_reader(server) as go_on:
            release_later(go_on, 0.3)
            with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
                ask(server, message)


def test_the_timeout_of_a_request_counts_from_its_arrival(points_bundle: Path) -> None:
    """The reading alone takes longer, and the engine, on the event loop, no time to speak of."""
    with running(points_bundle) as server, busy_reader(server) as go_on:
        release_later(go_on, 0.2)
        content = packed(parameters={"timeout": 100_000})
        status, told, _ = server.ask("POST", INFER, content, Content_Encoding="gzip")
        assert (status, told["error"]) == (504, "there was no answer within 0.1 s")


def test_a_long_response_is_written_beside_the_event_loop(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "PIECE_VALUES", 100)
    rows, top = [[1.0, 2.0]] * 8, {"name": "logits", "parameters": {"classification": 2}}
    tensor = {"name": "x", "datatype": "FP32", "shape": [8, 2], "contents": {"fp32_contents": [1, 2] * 8}}
    message = service_pb2.ModelInferRequest(model_name="points", inputs=[tensor], outputs=[{"name": "logits"}])
    message.outputs[0].parameters["classification"].int64_param = 2
    with running(points_bundle, grpc_port=0) as server, ThreadPoolExecutor() as pool:
        short = server.ask("POST", INFER, asked(rows[0], outputs=[top]))[1]["outputs"][0]["data"]
        with busy_reader(server) as go_on:
            over_http = pool.submit(server.ask, "POST", INFER, asked(*rows, outputs=[top]))
            over_grpc = pool.submit(ask, server, message)
            until(lambda: server.server.repository.find_model("points").served.active == 2)
            assert server.ask("POST", INFER, asked(rows[0]))[0] == 200
            assert not over_http.done()
            assert not over_grpc.done()
            go_on.set()
            status, told, _ = over_http.result(10)
            assert (status, told["outputs"][0]["data"]) == (200, short * 8)
            assert len(over_grpc.result(10).raw_output_contents[0]) == sum(4 + len(name) for name in short * 8)


def test_the_queue_of_raw_requests_holds_those_that_wait(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are computed had counted, too."""
    calls = slow(monkeypatch, 0.4)
    with running(points_bundle, queue=2, instances=2, max_batch=1) as server, ThreadPoolExecutor(9) as pool:
        batcher = server.server.repository.find_model("points").served.batcher

        def send(count: int) -> list[Future[tuple[int, Any, dict[str, str]]]]:
            return [pool.submit(server.ask, "POST", "/v2/models/points-raw/infer", asked([1, 2])) for _ in range(count)]

        computed = send(2)
        until(lambda: len(calls) == 2)
        waiting = send(2)
        until(lambda: batcher.waiting == 2)
        refused = send(1)
        assert [each.result(20)[0] for each in (*computed, *waiting, *refused)] == [200] * 4 + [503]
