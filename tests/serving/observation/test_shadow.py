"""Shadow: rolling agreement with a model that is trusted, and what depends on it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import InvalidBundleError, StageError
from attar.proof.estimates.metrics import compare_outputs
from attar.serving.core.settings import Settings
from attar.serving.models.model import ServedModel
from attar.serving.observation.shadow import ShadowObserver
from attar.serving.protocol.request import InferenceRequest, RequestTiming
from tests.support.proof.proof_parts import STUDENT, TEACHER, write_graph
from tests.support.serving.serving_parts import Running, another, asked, running, until, wait_for_compared

INFER = "/v2/models/points/infer"
POINTS = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    write_graph(tmp_path / "teacher.onnx", TEACHER)
    return str(tmp_path / "teacher.onnx")


def ask(server: Running, points: Array, path: str = INFER) -> None:
    for start in range(0, len(points), 5):
        assert server.ask("POST", path, asked(*points[start : start + 5].tolist()))[0] == 200


def rolling(server: Running) -> dict[str, float]:
    return {name: server.metric(f"attar_shadow_{name}") for name in ("correlation", "agreement", "kdl")}


def test_the_teacher_gives_what_validation_would_measure(points_bundle: Path, teacher: str) -> None:
    with running(points_bundle, shadow=teacher, shadow_rate=1) as server:
        ask(server, POINTS)
        wait_for_compared(server, 60)
        told = rolling(server)
        assert server.metric("attar_shadow_samples", model="points", output="logits") == 300
    expected = compare_outputs("logits", POINTS @ TEACHER, POINTS @ STUDENT).numbers
    assert told == pytest.approx({name: expected[name] for name in told}, abs=1e-5)
    measured = json.loads((points_bundle / "manifest.json").read_text())["ledger"]["hops"][-1]["teacher"]["correlation"]
    assert told["correlation"] == pytest.approx(measured, abs=0.02)


def test_the_fp32_student_agrees_with_itself(points_bundle: Path) -> None:
    with running(points_bundle, shadow="fp32", shadow_rate=1) as server:
        ask(server, POINTS[:50], "/v2/models/points-raw/infer")
        wait_for_compared(server, 10)
        assert rolling(server) == pytest.approx({"correlation": 1, "agreement": 1, "kdl": 0}, abs=1e-5)


def test_only_the_last_samples_count(points_bundle: Path, teacher: str) -> None:
    with running(points_bundle, shadow=teacher, shadow_rate=1, shadow_window=20) as server:
        ask(server, POINTS[:100])
        wait_for_compared(server, 20)
        expected = compare_outputs("logits", POINTS[80:100] @ TEACHER, POINTS[80:100] @ STUDENT).numbers
        assert server.metric("attar_shadow_samples") == 20
        assert server.metric("attar_shadow_correlation") == pytest.approx(expected["correlation"], abs=1e-5)


def test_the_share_that_is_chosen_follows_from_the_seed(points_bundle: Path, teacher: str) -> None:
    generator = Random(3)
    chosen = np.repeat([generator.random() < 0.2 for _ in range(60)], 5)
    with running(points_bundle, shadow=teacher, shadow_rate=0.2, shadow_seed=3) as server:
        ask(server, POINTS)
        wait_for_compared(server, chosen.sum() // 5)
        assert server.metric("attar_shadow_requests_total") == chosen.sum() // 5
        expected = compare_outputs("logits", POINTS[chosen] @ TEACHER, POINTS[chosen] @ STUDENT).numbers
        assert server.metric("attar_shadow_kdl") == pytest.approx(expected["kdl"], abs=1e-5)


def shadows(server: Running) -> list[Any]:
    assert server.server.shadow
    return list(server.server.shadow._of.values())


def ready(server: Running) -> tuple[int, int]:
    return server.ask("GET", "/v2/health/ready")[0], server.ask("GET", "/v2/models/points/ready")[0]


def test_readiness_falls_with_another_teacher_once_there_are_enough_samples(points_bundle: Path, tmp_path: Path) -> None:
    write_graph(tmp_path / "other.onnx", -TEACHER)
    limits = {"ready_correlation": 0.9, "ready_samples": 50}
    with running(points_bundle, shadow=str(tmp_path / "other.onnx"), shadow_rate=1, **limits) as server:
        ask(server, POINTS[:45])
        wait_for_compared(server, 9)
        assert server.metric("attar_shadow_correlation") < -0.9
        assert ready(server) == (200, 200)
        ask(server, POINTS[45:50])
        wait_for_compared(server, 10)
        assert ready(server) == (503, 503)
        assert server.metric("attar_model_ready", model="points") == 0
        ask(server, POINTS[:5])  # what is not ready still answers


def test_a_slow_shadow_holds_nobody_up_and_what_is_too_much_is_dropped(points_bundle: Path) -> None:
    with running(points_bundle, shadow="fp32", shadow_rate=1, shadow_queue=3) as server:
        (mine,) = shadows(server)
        entered, go, predict = threading.Event(), threading.Event(), mine.predict

        def stuck(inputs: Arrays) -> dict[str, Array]:
            entered.set()
            assert go.wait(20)
            answered: dict[str, Array] = predict(inputs)
            return answered

        mine.predict = stuck
        ask(server, POINTS[:5])
        assert entered.wait(10)
        ask(server, POINTS[:50])  # all of them are answered while the shadow is at the first
        assert server.metric("attar_shadow_queue_requests") == 3
        assert server.metric("attar_shadow_requests_total", outcome="dropped") == 7
        go.set()
        wait_for_compared(server, 4)


@pytest.fixture
def watched(points_bundle: Path) -> Iterator[Running]:
    with running(points_bundle, shadow="fp32", shadow_rate=1) as made:
        yield made


def test_a_shadow_that_fails_is_told_and_goes_on(watched: Running, caplog: pytest.LogCaptureFixture) -> None:
    (mine,) = shadows(watched)
    predict = mine.predict

    def broken(inputs: Arrays) -> dict[str, Array]:
        raise StageError("out of order")

    for wrong in (broken, lambda inputs: {"logits": predict(inputs)["logits"] * np.float32("nan")}):
        mine.predict = wrong
        ask(watched, POINTS[:5])
        until(lambda: mine.counts["failed"] > 0)
    until(lambda: mine.counts["failed"] == 2)
    assert [record.__dict__["fields"]["error"] for record in caplog.records] == ["out of order", "'logits' is not finite"]
    mine.predict = predict
    ask(watched, POINTS[:5])
    wait_for_compared(watched, 1)


def test_what_waits_holds_no_more_than_is_counted(points_bundle: Path) -> None:
    """The outputs of one request of a batch are a view of those of all."""
    with running(points_bundle, shadow="fp32", shadow_rate=1) as server:
        shadow, model = server.server.shadow, server.server.repository.find_model("points")
        assert shadow
        batch = np.ones((32, 3), np.float32)
        request = InferenceRequest({"x": POINTS[:1]}, 1, ())
        server.call(respond(shadow, model, request, {"logits": batch[3:4]}))
        _, (_, kept) = shadow._queue.get_nowait()
        assert (kept["logits"].base, kept["logits"].tolist()) == (None, [[1, 1, 1]])


async def respond(shadow: ShadowObserver, model: ServedModel, request: InferenceRequest, outputs: dict[str, Array]) -> None:
    shadow.on_response(model, request, outputs, RequestTiming(0, 0, 0, 1))


def test_a_new_bundle_starts_with_an_empty_window(points_bundle: Path, tmp_path: Path) -> None:
    bundle = another(points_bundle, tmp_path / "mine")
    with running(bundle, shadow="fp32", shadow_rate=1, model_control=True) as server:
        ask(server, POINTS[:50])
        wait_for_compared(server, 10)
        assert server.ask("POST", "/v2/repository/models/points/load")[0] == 200
        until(lambda: len(shadows(server)) == 1)
        assert server.metric("attar_shadow_samples") == 0
        ask(server, POINTS[:5])
        wait_for_compared(server, 1)


@pytest.mark.parametrize(
    ("matrix", "rename", "said"),
    [
        (np.ones((3, 3), np.float32), {}, r"input 'x' must be float32 \[batch, 3\].*with the inputs of the graph"),
        (np.ones((2, 4), np.float32), {}, r"'logits' has the shape \[1, 4\], expected \[1, 3\]; give a teacher of the same task"),
        (TEACHER, {"x": "y"}, r"the graph wants an input 'y'"),
        (TEACHER, {"logits": "z"}, r"it has no output 'logits', it has z"),
    ],
)
def test_a_teacher_of_something_else(points_bundle: Path, tmp_path: Path, matrix: Any, rename: dict[str, str], said: str) -> None:
    file = tmp_path / "other.onnx"
    write_graph(file, matrix)
    content = file.read_bytes()
    for old, new in rename.items():
        content = renamed(content, old, new)
    file.write_bytes(content)
    with (
        pytest.raises(InvalidBundleError, match=f"--shadow .*other.onnx cannot stand for points: .*{said}"),
        running(points_bundle, shadow=str(file)),
    ):
        pass


def renamed(graph: bytes, old: str, new: str) -> bytes:
    import onnx

    model = onnx.load_model_from_string(graph)
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    made: bytes = model.SerializeToString()
    return made


def test_what_is_no_graph(points_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_text("nonsense")
    for file, said in ((tmp_path / "no.onnx", "cannot open"), (tmp_path / "none.onnx", "is no file; give fp32, or an ONNX file")):
        with pytest.raises(InvalidBundleError, match=said), running(points_bundle, shadow=str(file)):
            pass


def test_readiness_needs_a_shadow() -> None:
    with pytest.raises(ValidationError, match="ready_correlation needs a shadow to correlate with"):
        Settings(ready_correlation=0.9)
