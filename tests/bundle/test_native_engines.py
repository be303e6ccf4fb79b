"""Engines that are native code: nobody loads one of a bundle that nobody signed, unless told to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

import attar
from attar.bundle import checksums
from attar.bundle.sign import sign_bundle
from attar.cli.main import main
from attar.engines.runtimes import onnxruntime
from attar.engines.runtimes.openvino import OpenVino
from attar.engines.runtimes.runtime import BuildSpec, load_runtime
from attar.pipeline.core.errors import InvalidBundleError, StageError
from attar.serving.load.engine import bench_engine
from tests.support.bundles.packaging import edit_manifest
from tests.support.bundles.signing_parts import KeyPair, pair
from tests.support.serving.serve_command import run_refused_serve
from tests.support.serving.serving_parts import INFER, asked, running

pytest.importorskip("openvino", reason="without OpenVINO")
ENGINE = Path("engines/openvino/model.blob")
POINT = np.array([[1, 2]], np.float32)
ANSWER = [2.0, 4.5, -4.0]
"""The student's, by hand."""
REFUSED = r"is not loaded: it is native code, .*OpenVINO.*--trusted FILE, .*--allow-native for what you built yourself"


@pytest.fixture(scope="module")
def original(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of linear points, with an engine of OpenVINO."""
    bundle = Path(shutil.copytree(points_bundle, tmp_path_factory.mktemp("openvino") / "points"))
    shutil.rmtree(bundle / "engines")
    (bundle / ENGINE).parent.mkdir(parents=True)
    OpenVino().build(bundle / "graphs" / "model.onnx", bundle / ENGINE, BuildSpec())
    found = OpenVino().describe_environment()
    needs = {"runtime": "openvino", "version": found.version, "provider": None, "machine": dict(found.machine)}
    edit_manifest(bundle, lambda manifest: manifest["engine"].update(needs))
    return bundle


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "points"))


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return pair(tmp_path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_an_engine_is_looked_at_and_not_loaded(bundle: Path) -> None:
    """What is no engine at all would be an error as soon as it was loaded."""
    (bundle / ENGINE).write_bytes(b"anything, such as code")
    checksums.write_checksums(bundle)
    done = run("check", bundle)
    assert (done.exit_code, done.stdout.startswith(f"{bundle} is whole and passed its gates: ")) == (0, True), done.output
    assert "native code" in done.stdout
    found = json.loads(run("check", bundle, "--json").stdout)
    assert (found["golden"]["largest_difference"], found["machine"]) == (None, "fits")
    done = run("check", bundle, "--allow-native")
    assert (done.exit_code, "OpenVINO" in done.stderr) == (4, True)


def test_its_graph_still_answers_the_golden_requests(bundle: Path) -> None:
    shutil.copyfile(bundle / "manifest.json", bundle / "graphs" / "model.onnx")
    checksums.write_checksums(bundle)
    done = run("check", bundle)
    assert (done.exit_code, "the graphs of" in done.stderr) == (4, True)


@pytest.mark.parametrize("trust", [{"allow_native": True}, {"trusted": "key.pub.pem"}])
def test_who_vouches_for_it_gets_its_answers(bundle: Path, key: KeyPair, trust: dict[str, Any]) -> None:
    sign_bundle(bundle, key.private)
    given: dict[str, Any] = {name: key.public if name == "trusted" else value for name, value in trust.items()}
    with attar.open(bundle, **given) as predict:
        assert predict({"x": POINT})["logits"].tolist() == [pytest.approx(ANSWER)]
    assert bench_engine(bundle, [1], 0.05, **given)["batches"]["1"]["rounds"] > 0
    with running(bundle, **given) as server:
        assert server.ask("POST", INFER, asked([1, 2]))[0] == 200
    options = ["--trusted", key.public] if "trusted" in given else ["--allow-native"]
    done = run("check", bundle, *options)
    assert (done.exit_code, "is fit to serve" in done.stdout, "engine loaded" in done.stdout) == (0, True, True)


@pytest.mark.parametrize("use", [attar.open, partial(bench_engine, batches=[1])], ids=["open", "bench"])
def test_nobody_else_opens_it(bundle: Path, key: KeyPair, use: Callable[[Path], object]) -> None:
    sign_bundle(bundle, key.private)  # a signature that nobody looks at vouches for nothing
    with pytest.raises(InvalidBundleError, match=REFUSED):
        use(bundle)


def test_the_server_does_not_begin_with_it(bundle: Path) -> None:
    code, said = run_refused_serve(str(bundle))
    assert (code, said.count("\n"), "it is native code" in said) == (4, 1, True)


@pytest.mark.parametrize(
    ("runtime", "provider", "options", "told"),
    [
        ("onnxruntime", None, {}, ""),
        ("onnxruntime", "CPUExecutionProvider", {}, ""),
        ("onnxruntime", "CUDAExecutionProvider", {}, ""),
        ("onnxruntime", "TensorrtExecutionProvider", {}, "TensorrtExecutionProvider"),
        ("onnxruntime", "QNNExecutionProvider", {}, "QNNExecutionProvider"),
        ("openvino", None, {}, "unverified"),
        ("tensorrt", None, {}, "GPU"),
        ("tensorrt", None, {"version_compatible": True}, "CPU"),
        ("tensorrt-rtx", None, {}, "GPU"),
    ],
)
def test_what_is_native(runtime: str, provider: str | None, options: dict[str, Any], told: str) -> None:
    content = load_runtime(runtime).native_content(BuildSpec(provider=provider, options=options))
    assert (content is None) == (not told)
    assert told in (content or "")


def test_a_graph_that_holds_an_engine_does_not_open_on_the_cpu(tmp_path: Path) -> None:
    """So what makes a graph native is the provider alone."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy")
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=1, ep_cache_context=b"engine")
    graph = helper.make_graph([node], "held", [x], [y])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(StageError, match="EPContext"), onnxruntime.open_session({"model": tmp_path / "model.onnx"}, 1):
        pass


def test_a_provider_that_is_not_there_is_told_without_loading(points_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(points_bundle, tmp_path / "points"))
    edit_manifest(bundle, lambda manifest: manifest["engine"].update(provider="TensorrtExecutionProvider"))
    done = run("check", bundle)
    assert (done.exit_code, "cannot run here" in done.stderr) == (4, True)
