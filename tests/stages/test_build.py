from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from attar.engines import cpu, thread_counts
from attar.engines.axis_profile import complete_profile
from attar.engines.runtimes import cuda, onnxruntime, openvino
from attar.engines.runtimes import runtime as runtimes
from attar.engines.runtimes.runtime import RefusedNode, RuntimeName
from attar.pipeline.core.errors import StageError, UnsupportedModelError
from attar.stages.artifacts import Engine, OnnxModel, Ranges
from attar.stages.build import Build, format_refused_nodes
from attar.stages.optimize.stage import Optimize
from tests.support.tasks import smoke

INPUTS = {"image": np.random.default_rng(0).standard_normal((7, 1, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel, digits_ranges: Ranges
) -> OnnxModel:
    out = tmp_path_factory.mktemp("model")
    settings = Optimize.model_validate({"task": smoke.DIGITS, "precision": request.param})
    read: dict[str, Any] = {"student": smoke.NOBODY, "answers": smoke.UNASKED, "calibration": digits_ranges}
    return smoke.artifact(OnnxModel, out, settings.run(out, onnx=digits_onnx, **read))


def test_the_engine_answers_like_the_model_and_decides_nothing_more(tmp_path: Path, model: OnnxModel) -> None:
    facts = Build(task=smoke.DIGITS, threads=1).run(tmp_path, model=model)
    engine = smoke.artifact(Engine, tmp_path, facts)
    with model.open(threads=1) as expected, engine.open() as got:
        np.testing.assert_allclose(smoke.floats(got(INPUTS)["logits"]), smoke.floats(expected(INPUTS)["logits"]), atol=1e-3)
    assert engine.file().read_bytes() != model.file().read_bytes()


def test_facts(tmp_path: Path, model: OnnxModel) -> None:
    facts = dict(Build(task=smoke.DIGITS, threads=2).run(tmp_path, model=model))
    assert facts.pop("difference") <= 1e-3
    kernel = "QLinearConv" if model.facts["precision"] == "int8" else "Conv"
    assert facts.pop("nodes")[kernel] >= 8
    assert facts == {
        "task": smoke.DIGITS,
        "graphs": ["model"],
        "files": {"model": "model.onnx"},
        "runtime": "onnxruntime",
        "opened_by": "attar.engines.runtimes.onnxruntime:OnnxRuntime",
        "runtime_version": onnxruntime.OnnxRuntime().get_version(),
        "provider": "CPUExecutionProvider",
        "threads": 2,
        "precision": model.facts["precision"],
        "parameters": 19642,
        "machine": cpu.describe_machine(),
        "why": None,
        "asked": {"profile": {}, "options": {}},
    }


def test_the_thread_count_is_measured(tmp_path: Path, digits_onnx: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_counts, "ROUNDS", 1)
    model = smoke.artifact(OnnxModel, digits_onnx.root, digits_onnx.facts)
    facts = Build(task=smoke.DIGITS).run(tmp_path, model=model)
    assert facts["threads"] in onnxruntime.OnnxRuntime().list_thread_counts()


@pytest.mark.parametrize(
    ("seconds", "threads"),
    [
        ({1: 1.0, 2: 0.95}, 1),  # 5 % is not worth a core
        ({1: 1.0, 2: 0.8}, 2),
        ({1: 1.0, 2: 0.8, 4: 0.75}, 2),
        ({1: 1.0, 2: 1.2, 4: 0.5, 6: 0.4}, 6),
    ],
)
def test_more_threads_must_be_worth_it(seconds: dict[int, float], threads: int) -> None:
    assert thread_counts.select_thread_count(seconds) == threads


def test_an_engine_that_answers_differently_is_refused(
    tmp_path: Path, digits_onnx: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(source: Path, target: Path, **how: object) -> None:
        graph = onnx.load(source)
        bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "head.2.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1), bias.name))
        onnx.save(graph, target)

    monkeypatch.setattr(onnxruntime, "write_optimized", wrong)
    with pytest.raises(StageError, match=r"at batch 1: .*'logits' .* by 1,"):
        Build(task=smoke.DIGITS, threads=1).run(tmp_path, model=digits_onnx)


def test_an_engine_of_openvino(tmp_path: Path, model: OnnxModel) -> None:
    pytest.importorskip("openvino", reason="without OpenVINO")
    facts = Build(task=smoke.DIGITS, runtime="openvino", threads=1).run(tmp_path, model=model)
    engine = smoke.artifact(Engine, tmp_path, facts)
    assert (facts["provider"], facts["files"], facts["why"]) == (None, {"model": "model.blob"}, None)
    assert engine.size == (tmp_path / "model.blob").stat().st_size
    with model.open(threads=1) as expected, engine.open() as got:
        np.testing.assert_allclose(smoke.floats(got(INPUTS)["logits"]), smoke.floats(expected(INPUTS)["logits"]), atol=1e-2)


@pytest.mark.skipif(not openvino.NATIVE["bf16"] & cpu.cpu_flags(), reason="a CPU without bf16 arithmetic")
def test_bf16_is_held_to_what_it_rounds_to(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    model = smoke.artifact(OnnxModel, digits_onnx.root, {**digits_onnx.facts, "precision": "bf16"})
    with pytest.raises(StageError, match=r"'logits' .*allowed 1e-06"):
        Build(task=smoke.DIGITS, runtime="openvino", threads=1, tolerance=1e-6).run(tmp_path, model=model)
    facts = Build(task=smoke.DIGITS, runtime="openvino", threads=1).run(tmp_path, model=model)
    assert 1e-5 < facts["difference"] < 5e-2


@pytest.mark.parametrize(("runtime", "precision"), [("onnxruntime", "bf16"), ("openvino", "int8-dynamic")])
def test_a_precision_that_a_runtime_does_not_have(
    tmp_path: Path, digits_onnx: OnnxModel, runtime: RuntimeName, precision: str
) -> None:
    model = smoke.artifact(OnnxModel, digits_onnx.root, {**digits_onnx.facts, "precision": precision})
    with pytest.raises(UnsupportedModelError, match=f"{runtime} .*'{precision}'; .*fp32"):
        Build(task=smoke.DIGITS, runtime=runtime).run(tmp_path, model=model)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_operator_that_a_runtime_does_not_have(tmp_path: Path, digits_onnx: OnnxModel, runtime: RuntimeName) -> None:
    smoke.strange(tmp_path)
    (tmp_path / "out").mkdir()
    model = smoke.artifact(OnnxModel, tmp_path, digits_onnx.facts)
    title = runtimes.load_runtime(runtime).title
    with pytest.raises(UnsupportedModelError, match=f"{title} .*my.ops:Strange 'node_1'"):
        Build(task=smoke.DIGITS, runtime=runtime).run(tmp_path / "out", model=model)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_few_of_many_refused_nodes_are_named(digits_onnx: OnnxModel) -> None:
    refused = [RefusedNode(f"node_{number}", "Conv", "no") for number in range(5)]
    assert (
        format_refused_nodes(refused, digits_onnx.file()) == "Conv 'node_0': no; Conv 'node_1': no; Conv 'node_2': no; and 2 more"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runtime": "torch"}, "runtime"),
        ({"threads": 0}, "threads"),
        (
            {"runtime": "openvino", "provider": "CPUExecutionProvider"},
            r"provider means .*'openvino'",
        ),
        ({"profile": {"batch": [1, 2, 4]}}, r"profile means .*'onnxruntime'"),
        ({"compute": ["8.6"]}, "compute means"),
        ({"workspace": 64}, "workspace means nothing"),
        ({"version_compatible": True}, "version_compatible means nothing"),
        ({"profile": {"batch": [8, 1, 64]}}, "8, 1, 64"),
        ({"profile": {"batch": [1, 8]}}, "profile.batch"),
        ({"compute": ["sm_86"]}, "compute"),
        ({"builder_optimization_level": 6}, "builder_optimization_level"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Build.model_validate({"task": smoke.DIGITS, **settings})


def test_only_what_the_runtime_knows_decides() -> None:
    settings = {"task", "runtime", "runtime_code", "lacks", "tolerance", "threads"}
    assert Build(task=smoke.DIGITS).deciding() == settings | {"provider"}
    assert Build(task=smoke.DIGITS, runtime="openvino").deciding() == settings


def test_the_profile_is_completed_by_the_promises() -> None:
    images = smoke.Images()
    whole = {"batch": (1, 1, 8), "height": (4, 12, 12), "width": (4, 20, 20)}
    assert complete_profile({}, images) == whole
    assert complete_profile({"batch": (1, 4, 64)}, images) == whole | {"batch": (1, 4, 64)}


@given(least=st.integers(0, 10), extra=st.integers(0, 20))
def test_a_profile_covers_what_is_promised_or_is_refused(least: int, extra: int) -> None:
    most = least + extra
    if least <= 4 and most >= 12:
        assert complete_profile({"height": (least, least, most)}, smoke.Images())["height"] == (least, least, most)
    else:
        with pytest.raises(StageError, match=rf"height .*{least} to {most}, .*4 to 12"):
            complete_profile({"height": (least, least, most)}, smoke.Images())


def test_an_axis_that_nobody_knows_and_one_without_sizes() -> None:
    with pytest.raises(StageError, match=r"Images .*'hight'; .*'height'"):
        complete_profile({"hight": (4, 8, 12)}, smoke.Images())
    with pytest.raises(StageError, match=r"Unranged .*'batch' .*`ranges`"):
        complete_profile({}, smoke.Unranged())


def test_without_the_hardware_nothing_is_built(tmp_path: Path, digits_onnx: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "explain_missing_gpu", lambda: "no NVIDIA GPU here")
    facts = Build(task=smoke.DIGITS, provider="CUDAExecutionProvider").run(tmp_path, model=digits_onnx)
    engine = smoke.artifact(Engine, tmp_path, facts)
    assert (facts["why"], facts["files"], facts["difference"], facts["runtime_version"]) == ("no NVIDIA GPU here", {}, None, None)
    assert (list(tmp_path.iterdir()), engine.size) == ([], 0)
    with pytest.raises(StageError, match="not built here: no NVIDIA"):
        engine.open()


def test_an_engine_that_cannot_run_here_is_built_and_not_asked(
    tmp_path: Path, digits_onnx: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime.OnnxRuntime, "explain_unrunnable", lambda self, asked: "a Sunday")
    facts = Build(task=smoke.DIGITS).run(tmp_path, model=digits_onnx)
    assert (facts["why"], facts["files"], facts["difference"]) == ("a Sunday", {"model": "model.onnx"}, None)
    with pytest.raises(StageError, match="a Sunday"):
        smoke.artifact(Engine, tmp_path, facts).open()


def test_a_misspelt_provider_is_an_error_whatever_the_hardware(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    with pytest.raises(StageError, match=r"'CUDAExecutionProvidr'.*'CUDAExecutionProvider'\?"):
        Build(task=smoke.DIGITS, provider="CUDAExecutionProvidr").run(tmp_path, model=digits_onnx)
