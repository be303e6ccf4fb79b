"""What is made once and read by many tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.stages.artifacts import Answers, OnnxModel, Ranges, Weights
from attar.stages.calibrate import Calibrate
from attar.stages.export import Export
from attar.stages.label.stage import Label
from benchmarks.tuning import stretched
from tests.support import smoke


@pytest.fixture(scope="session")
def digits_weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return smoke.digits_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def digits_onnx(tmp_path_factory: pytest.TempPathFactory, digits_weights: Weights) -> OnnxModel:
    out = tmp_path_factory.mktemp("onnx")
    return smoke.artifact(OnnxModel, out, Export().run(out, weights=digits_weights))


@pytest.fixture(scope="session")
def digits_ranges(tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel) -> Ranges:
    out = tmp_path_factory.mktemp("ranges")
    return smoke.artifact(Ranges, out, Calibrate(task=smoke.DIGITS, samples=256).run(out, onnx=digits_onnx))


@pytest.fixture(scope="session")
def own_answers(tmp_path_factory: pytest.TempPathFactory, digits_weights: Weights) -> Answers:
    """The float network is its own teacher, so what int8 loses is all that there is to learn."""
    out = tmp_path_factory.mktemp("answers") / "out"
    out.mkdir()
    return smoke.artifact(Answers, out, Label(task=smoke.DIGITS, views=2).run(out, teacher=digits_weights))


@pytest.fixture(scope="session")
def hard(tmp_path_factory: pytest.TempPathFactory, digits_weights: Weights) -> tuple[OnnxModel, Ranges]:
    """The same function in float, its channels stretched."""
    root, out = tmp_path_factory.mktemp("hard"), tmp_path_factory.mktemp("hard-ranges")
    model = smoke.artifact(OnnxModel, root, Export(exporter="torchscript").run(root, weights=digits_weights))
    stretched(model.file(), 100)
    return model, smoke.artifact(Ranges, out, Calibrate(task=smoke.DIGITS, samples=256).run(out, onnx=model))


@pytest.fixture(scope="session")
def points_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of linear points: raw coordinates are halved by preprocessing. Copy it before you spoil it."""
    from tests.support.packaging import package_bundle

    return package_bundle(tmp_path_factory.mktemp("points"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for data: nothing is found but what is put there."""
    monkeypatch.setenv("ATTAR_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path
