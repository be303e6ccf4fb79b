"""What is made once and read by many tests."""

from __future__ import annotations

import pytest

from attar.stages.artifacts import OnnxModel, Ranges, Weights
from attar.stages.calibrate import Calibrate
from attar.stages.export import Export
from tests import smoke


@pytest.fixture(scope="session")
def digits_weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return smoke.digits_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def digits_onnx(tmp_path_factory: pytest.TempPathFactory, digits_weights: Weights) -> OnnxModel:
    out = tmp_path_factory.mktemp("onnx")
    return smoke.artifact(OnnxModel, out, Export(task=smoke.DIGITS).run(out, weights=digits_weights))


@pytest.fixture(scope="session")
def digits_ranges(tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel) -> Ranges:
    out = tmp_path_factory.mktemp("ranges")
    return smoke.artifact(Ranges, out, Calibrate(task=smoke.DIGITS, samples=256).run(out, onnx=digits_onnx))
