"""Engines that fail: asked again, opened anew, and in the end told by liveness."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tritonclient import grpc as triton

from attar.models.task import Array, Arrays, Predict
from attar.pipeline.core.errors import StageError
from attar.serving.models import model, recovery
from tests.support.serving.serving_parts import Running, another, asked, running, wrapped

INFER = "/v2/models/points/infer"
LIVE, READY, MODEL_READY = "/v2/health/live", "/v2/health/ready", "/v2/models/points/ready"


class Fault:
    """Engines that were opened while it was on break whenever it is; with ``forever`` all do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.02) -> None:
        monkeypatch.setattr(recovery, "PROBE_SECONDS", seconds)
        self.on = threading.Event()
        self.healthy: set[int] = set()
        self.opened = 0
        self.calls: list[int] = []
        wrapped(monkeypatch, self.wrap)

    def wrap(self, predict: Predict) -> Predict:
        self.opened += 1
        mine = self.opened

        def call(inputs: Arrays) -> dict[str, Array]:
            self.calls.append(len(inputs["x"]))
            if self.on.is_set() and mine not in self.healthy:
                raise StageError("the device is lost")
            if 13 in inputs["x"]:
                raise StageError("13 is out of bounds")
            return predict(inputs)

        return call


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def status(server: Running, path: str) -> int:
    return server.ask("GET", path)[0]


def infer(server: Running) -> int:
    return server.ask("POST", INFER, asked([1, 2]))[0]


def test_one_fault_is_over_when_the_engine_answers_again(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to ask the model for it, as a load balancer sends nothing to what is not ready."""
    fault = Fault(monkeypatch, 0.3)
    with running(points_bundle, instances=1) as server:
        fault.on.set()
        assert infer(server) == 500
        assert [status(server, path) for path in (READY, MODEL_READY, LIVE)] == [503, 503, 200]
        fault.on.clear()
        wait_until(lambda: status(server, READY) == 200)
        assert status(server, MODEL_READY) == infer(server) == 200
        assert fault.opened == 1


def test_an_engine_that_hangs_is_told_until_it_returns(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ends the thread that it hangs in; requests get 504, and only another process can help."""
    monkeypatch.setattr(recovery, "PROBE_SECONDS", 0.02)
    monkeypatch.setattr(model, "HANG_SECONDS", 0.4)
    hanging, go_on = threading.Event(), threading.Event()

    def wrap(predict: Predict) -> Predict:
        def call(inputs: Arrays) -> dict[str, Array]:
            if hanging.is_set():
                go_on.wait(20)
            return predict(inputs)

        return call

    wrapped(monkeypatch, wrap)
    with running(points_bundle, instances=2, deadline=0.1) as server:
        hanging.set()
        assert infer(server) == 504
        time.sleep(0.5)
        assert [status(server, path) for path in (READY, MODEL_READY, LIVE)] == [200] * 3  # one of two is idle
        assert infer(server) == 504
        wait_until(lambda: status(server, LIVE) == 503)
        assert [status(server, path) for path in (READY, MODEL_READY)] == [503] * 2
        hanging.clear()
        go_on.set()
        wait_until(lambda: status(server, LIVE) == 200)
        assert [status(server, path) for path in (READY, MODEL_READY)] == [200] * 2
        assert infer(server) == 200


def test_an_engine_that_keeps_failing_is_opened_anew(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault(monkeypatch)
    fault.healthy = {2}
    with running(points_bundle, instances=1) as server:
        version = server.ask("GET", "/v2/models/points")[1]["versions"]
        fault.on.set()
        assert infer(server) == 500
        wait_until(lambda: status(server, READY) == 200)
        assert infer(server) == 200
        assert server.ask("GET", "/v2/models/points")[1]["versions"] == version
        assert server.metric("attar_engine_reopens_total", outcome="opened") == 1
        assert status(server, LIVE) == 200


def test_liveness_fails_where_opening_it_anew_does_not_help(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault(monkeypatch)
    with running(points_bundle, instances=1, grpc_port=0) as server:
        fault.on.set()
        wait_until(lambda: infer(server) == 500 and status(server, LIVE) == 503)
        assert server.ask("GET", LIVE)[1] == {"live": False}
        with triton.InferenceServerClient(server.grpc_url) as client:
            assert not client.is_server_live()
        assert server.metric("attar_engine_reopens_total", outcome="opened") == recovery.REOPENS
        fault.on.clear()
        wait_until(lambda: status(server, LIVE) == status(server, READY) == 200)


def test_content_that_nobody_loaded_is_not_opened_in_its_place(
    points_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = another(points_bundle, tmp_path / "mine")
    fault = Fault(monkeypatch)
    with running(bundle, instances=1) as server:
        version = server.ask("GET", "/v2/models/points")[1]["versions"]
        another(points_bundle, tmp_path / "newer")
        bundle.rename(tmp_path / "older")
        (tmp_path / "newer").rename(bundle)
        fault.on.set()
        assert infer(server) == 500
        wait_until(lambda: server.metric("attar_engine_reopens_total", outcome="failed") >= 1)
        assert server.ask("GET", "/v2/models/points")[1]["versions"] == version


def test_where_one_of_two_engines_fails_the_other_answers(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault(monkeypatch, 60)
    fault.healthy = {1}
    with running(points_bundle, instances=2) as server:
        fault.on.set()
        statuses = [infer(server) for _ in range(20)]
        assert statuses.count(500) <= 1
        assert statuses[1:] == [200] * 19
        assert status(server, READY) == 200


def test_metrics_count_every_call_of_the_engine(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that failed and those that found out why, too."""
    fault = Fault(monkeypatch)
    with running(points_bundle, instances=1) as server:
        assert infer(server) == 200
        assert server.ask("POST", INFER, asked([13, 2]))[0] == 400
        assert server.metric("attar_batch_rows_count", model="points") == len(fault.calls) == 3
        assert server.metric("attar_batch_rows_sum", model="points") == sum(fault.calls)
        told = server.ask("GET", "/v2/models/points/stats")[1]["model_stats"][0]
        assert told["execution_count"] == 3
