"""Fidelity: the correlation of a graph with stored answers, by hand and by numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from attar.stages.artifacts import Answers
from attar.stages.label.shards import Shard
from attar.stages.optimize.fidelity import measure_correlation
from tests.support.tasks import smoke

NUMBERS = smoke.ThreeNumbers().numbers()


def answers(root: Path, values: npt.NDArray[np.float32]) -> Answers:
    smoke.write_shard(root, Shard("validation", None, 0), {"y": values})
    return smoke.artifact(Answers, root, {"outputs": ["y"]})


def graph(root: Path, text: str) -> Path:
    model = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,3] x) => (float[batch,3] y) <float two = {{2}}, float none = {{0}}> {{ {text} }}""")
    onnx.save(model, root / "model.onnx")
    return root / "model.onnx"


@pytest.mark.parametrize(("text", "expected"), [("y = Mul(x, two)", 1.0), ("y = Neg(x)", -1.0), ("y = Mul(x, none)", 0.0)])
def test_correlation_with_the_stored_answers(tmp_path: Path, text: str, expected: float) -> None:
    """All 100 samples, of which a call may take 8."""
    assert measure_correlation(graph(tmp_path, text), smoke.ThreeNumbers(), answers(tmp_path, NUMBERS)) == expected


def test_by_numpy(tmp_path: Path) -> None:
    noisy = NUMBERS + 20 * np.random.default_rng(0).standard_normal(NUMBERS.shape).astype(np.float32)
    found = measure_correlation(graph(tmp_path, "y = Identity(x)"), smoke.ThreeNumbers(), answers(tmp_path, noisy))
    assert found == pytest.approx(np.corrcoef(NUMBERS.ravel(), noisy.ravel())[0, 1], abs=1e-6)
