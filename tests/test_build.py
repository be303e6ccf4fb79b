from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from attar.pipeline.errors import StageError
from attar.stages import build
from attar.stages.artifacts import Engine, OnnxModel, Ranges
from attar.stages.build import Build
from attar.stages.optimize import Optimize
from attar.stages.runtimes import onnxruntime
from tests import smoke

INPUTS = {"image": np.random.default_rng(0).standard_normal((7, 1, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel, digits_ranges: Ranges
) -> OnnxModel:
    out = tmp_path_factory.mktemp("model")
    settings = Optimize.model_validate({"task": smoke.DIGITS, "precision": request.param})
    given: dict[str, Any] = {"student": smoke.NOBODY, "answers": smoke.UNASKED, "calibration": digits_ranges}
    return smoke.artifact(OnnxModel, out, settings.run(out, onnx=digits_onnx, **given))


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
        "runtime_version": onnxruntime.version(),
        "provider": "CPUExecutionProvider",
        "threads": 2,
        "precision": model.facts["precision"],
        "parameters": 19642,
        "machine": onnxruntime.machine(),
        "why": None,
        "asked": {"profile": {}, "options": {}},
    }


def test_the_thread_count_is_measured(tmp_path: Path, digits_onnx: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROUNDS", 1)
    model = smoke.artifact(OnnxModel, digits_onnx.root, digits_onnx.facts)
    facts = Build(task=smoke.DIGITS).run(tmp_path, model=model)
    assert facts["threads"] in onnxruntime.OnnxRuntime().counts()


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
    assert build.chosen(seconds) == threads


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_thread_counts(cores: int, counts: list[int]) -> None:
    assert onnxruntime.powers(cores) == counts


def test_an_engine_that_answers_differently_is_refused(
    tmp_path: Path, digits_onnx: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(source: Path, target: Path, provider: str) -> None:
        graph = onnx.load(source)
        bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "head.2.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1), bias.name))
        onnx.save(graph, target)

    monkeypatch.setattr(onnxruntime, "write_optimized", wrong)
    with pytest.raises(StageError, match=r"at batch 1: output 'logits' differs by 1, allowed .*look at the graph"):
        Build(task=smoke.DIGITS, threads=1).run(tmp_path, model=digits_onnx)


@pytest.mark.parametrize("settings", [{"runtime": "openvino"}, {"threads": 0}])
def test_what_is_not_there_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        Build.model_validate({"task": smoke.DIGITS, **settings})


def test_a_provider_that_is_not_here(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    with pytest.raises(StageError, match=r"no provider 'CUDAExecutionProvider'.*CPUExecutionProvider"):
        Build(task=smoke.DIGITS, provider="CUDAExecutionProvider").run(tmp_path, model=digits_onnx)
