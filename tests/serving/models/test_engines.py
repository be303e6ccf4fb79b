"""A bundle opened for serving: what was measured about it decides how it is run."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import RpcError
from tritonclient import http as triton
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import InferenceServerException

from attar.bundle.manifest import EngineRequirements
from attar.engines.runtimes import onnxruntime
from attar.engines.runtimes.onnxruntime_sessions import start_session
from attar.models import preprocess
from attar.models.preprocess import Normalize, Tokenize
from attar.models.task import Arrays
from attar.models.tensors import TensorSpec
from attar.proof.verdicts.limits import GateLimits
from attar.serving.core.settings import Settings
from attar.serving.models.engines import CALLS, count_instances, open_engines, time_warm_call
from attar.serving.protocol.signature import declare_raw
from tests.support.bundles.packaging import edit_manifest, package_batch_dependent_bundle, package_bundle
from tests.support.engines.tensor_specs import make_spec
from tests.support.proof.proof_parts import STUDENT
from tests.support.serving.serving_parts import Running, ask, asked, running, triton_client
from tests.support.tasks.word_pairs import NAME, WordPairs
from tests.support.tasks.words import saved


def test_a_quick_engine_runs_on_the_loop_and_is_opened_once(points_bundle: Path) -> None:
    engines = open_engines(points_bundle, Settings())
    assert (engines.inline, engines.joining.joins, engines.most, len(engines.predicts)) == (True, True, 8, 1)
    assert engines.probe["x"].shape == (1, 2)
    engines.close()


@pytest.mark.parametrize(("cores", "inline"), [(1, True), (2, False)])
def test_on_a_single_core_a_slower_engine_runs_on_the_loop_too(
    cores: int, inline: bool, points_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attar.pipeline.keys.machine.count_cores", lambda: cores)
    monkeypatch.setattr("attar.serving.models.engines.time_warm_call", lambda *_: 2e-3)
    engines = open_engines(points_bundle, Settings(inline_below=1e-3))
    assert (engines.inline, len(engines.predicts)) == (inline, cores)
    engines.close()


def test_settings_decide_otherwise(points_bundle: Path) -> None:
    engines = open_engines(points_bundle, Settings(instances=3, max_batch=4))
    assert (engines.inline, engines.most, len(engines.predicts)) == (False, 4, 3)
    engines.close()
    engines = open_engines(points_bundle, Settings(inline_below=0))
    assert (engines.inline, len(engines.predicts) >= 1) == (False, True)
    engines.close()


def test_an_engine_whose_answers_depend_on_the_whole_call_is_never_shared(tmp_path: Path) -> None:
    bundle, _ = package_batch_dependent_bundle(tmp_path)
    engines = open_engines(bundle, Settings())
    assert not engines.joining.joins
    engines.close()


def test_dynamic_int8_is_never_shared(points_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(points_bundle, tmp_path / "mine"))
    edit_manifest(bundle, lambda manifest: manifest["engine"].update(precision="int8-dynamic"))
    engines = open_engines(bundle, Settings())
    assert not engines.joining.joins
    engines.close()


def test_a_slow_engine_is_not_warmed_for_long() -> None:
    calls = []

    def predict(inputs: Arrays) -> dict[str, Any]:
        calls.append(1)
        threading.Event().wait(0.02)
        return {}

    assert time_warm_call(predict, {}, 1e-3) >= 0.02
    assert 0 < len(calls) <= 3


def test_a_quick_engine_is_warmed_by_a_number_of_calls_and_the_quickest_counts() -> None:
    calls = []

    def predict(inputs: Arrays) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 1:
            time.sleep(0.005)
        return {}

    assert time_warm_call(predict, {}, 1e-3) < 0.005
    assert 3 <= len(calls) <= CALLS


@pytest.mark.parametrize(
    ("sample", "resized", "told"),
    [
        (np.array([b"a", b"b"], object), False, make_spec("x", "BYTES", ("batch",))),
        (np.array(["a", "b"], object), False, make_spec("x", "BYTES", ("batch",), text=True)),
        (np.zeros((3, 28, 28), np.uint8), False, make_spec("x", "UINT8", ("batch", 28, 28))),
        (np.zeros((3, 28, 28), np.uint8), True, make_spec("x", "UINT8", ("batch", "x axis 1", "x axis 2"))),
    ],
)
def test_what_raw_inputs_are(sample: Any, resized: bool, told: TensorSpec) -> None:
    assert declare_raw("x", sample, resized) == told


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of a bundle that reads two words."""
    root = tmp_path_factory.mktemp("pairs")
    WordPairs.preprocess = {
        "x": [Tokenize(file=saved(root / "mine.json", frame=False), length=2), Normalize(mean=(6.0,), std=(1.0,))]
    }
    with running(
        package_bundle(root / "chain", GateLimits(score_drop=0.5, correlation=0.5, leak=1.0), NAME), grpc_port=0
    ) as made:
        yield made


@pytest.mark.parametrize("binary", [True, False])
def test_text_comes_as_bytes(texts: Running, binary: bool) -> None:
    with triton_client(texts.url) as client:
        assert client.get_model_metadata("points-raw")["inputs"] == [{"name": "x", "datatype": "BYTES", "shape": [-1]}]
        words = triton.InferInput("x", [2], "BYTES")
        words.set_data_from_numpy(np.array(["sun wind", "moon moon stone"], object), binary_data=binary)
        found = client.infer("points-raw", [words]).as_numpy("logits")
        assert np.allclose(found, np.array([[-2, 2], [-1, -1]]) @ STUDENT)


WORDS = {"name": "x", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    "sent",
    [
        {"inputs": [{**WORDS, "contents": {"bytes_contents": [b"sun wind"]}}]},
        {"inputs": [WORDS], "raw_input_contents": [b"\x08\0\0\0sun wind"]},
    ],
)
def test_text_comes_as_bytes_over_grpc(texts: Running, sent: dict[str, Any]) -> None:
    found = InferResult(ask(texts, service_pb2.ModelInferRequest(model_name="points-raw", **sent)))
    assert np.allclose(found.as_numpy("logits"), [[-2, 2]] @ STUDENT)


def test_what_is_no_text_over_grpc(texts: Running) -> None:
    sent = service_pb2.ModelInferRequest(model_name="points-raw", inputs=[{**WORDS, "contents": {"bytes_contents": [b"\xff"]}}])
    with pytest.raises(RpcError, match="'x' holds what is no BYTES: 'utf-8' codec can't decode"):
        ask(texts, sent)


def test_what_the_steps_make_must_fit_the_graph(texts: Running) -> None:
    """One word is one token, and the graph reads two."""
    words = triton.InferInput("x", [1], "BYTES")
    words.set_data_from_numpy(np.array(["sun"], object))
    with (
        triton_client(texts.url) as client,
        pytest.raises(InferenceServerException, match=r"'x' .*\[batch, 2\], got \[1, 1\]"),
    ):
        client.infer("points-raw", [words])


def test_what_is_no_text(texts: Running) -> None:
    words = triton.InferInput("x", [1], "BYTES")
    words.set_data_from_numpy(np.array([b"\xff"], object))
    with (
        triton_client(texts.url) as client,
        pytest.raises(InferenceServerException, match="holds no UTF-8 BYTES"),
    ):
        client.infer("points-raw", [words])


@pytest.mark.parametrize(
    ("runtime", "provider", "threads", "expected"),
    [
        ("onnxruntime", None, 1, 16),
        ("onnxruntime", None, 4, 4),
        ("openvino", None, 32, 1),
        ("onnxruntime", "CUDAExecutionProvider", 1, 1),
        ("tensorrt", None, 1, 1),
        ("tensorrt-rtx", None, 1, 1),
    ],
)
def test_how_many_engines_run(
    runtime: str, provider: str | None, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cores say how many do on a CPU, and nothing about a GPU."""
    monkeypatch.setattr("attar.pipeline.keys.machine.count_cores", lambda: 16)
    needs = EngineRequirements(runtime=runtime, version="1", provider=provider, threads=threads, precision="fp32", machine={})
    assert count_instances([needs], None) == expected


@pytest.mark.parametrize(("threads", "sessions"), [(1, 1), (2, 3)])
def test_calls_share_a_session_that_computes_where_it_is_called(
    threads: int, sessions: int, points_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are in memory once, and no call waits for another."""
    opened: list[Any] = []

    def counted(*given: Any) -> Any:
        opened.append(given)
        return start_session(*given)

    monkeypatch.setattr(onnxruntime, "start_session", counted)
    engines = open_engines(points_bundle, Settings(instances=3, threads=threads))
    assert (len(opened), len(engines.predicts)) == (sessions, 3)
    inputs = {"x": np.ones((1, 2), np.float32)}
    with ThreadPoolExecutor(3) as pool:
        for answer in pool.map(lambda predict: predict(inputs), engines.predicts * 10):
            assert np.allclose(answer["logits"], [[1, 1]] @ STUDENT)
    engines.close()


def test_a_model_on_the_loop_prepares_in_several_threads(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, apply = threading.Barrier(2, timeout=10), preprocess.apply

    def together(*given: Any) -> Any:
        both.wait()
        return apply(*given)

    monkeypatch.setattr("attar.pipeline.keys.machine.count_cores", lambda: 2)
    with running(points_bundle) as server, ThreadPoolExecutor(2) as pool:
        assert server.server.repository.find_model("points").served.engines.inline
        monkeypatch.setattr(preprocess, "apply", together)
        calls = [pool.submit(server.ask, "POST", "/v2/models/points-raw/infer", asked([1, 2])) for _ in range(2)]
        assert [call.result(20)[0] for call in calls] == [200, 200]
