from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

from attar.pipeline.errors import StageError
from attar.pipeline.progress import listening
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.calibrate import Calibrate, gather
from attar.stages.precision.histogram import Histogram
from tests import smoke

DOUBLE = """
<ir_version: 9, opset_import: ["" : 18]>
double (float[batch,3] x) => (float[batch,3] y) <float[1] two = {2}, float[1] one = {1}> {
    shifted = Add(x, one)
    rounded = Cast<to=7>(shifted)
    y = Mul(shifted, two)
}
"""
NUMBERS = "tests.smoke:Numbers"


@pytest.fixture
def double(tmp_path: Path) -> OnnxModel:
    onnx.save(onnx.parser.parse_model(DOUBLE), tmp_path / "model.onnx")
    return smoke.artifact(OnnxModel, tmp_path, {"graphs": ["model"]})


def calibrated(out: Path, model: OnnxModel, samples: int, task: str = NUMBERS) -> dict[str, list[float]]:
    out.mkdir()
    Calibrate(task=task, samples=samples).run(out, onnx=model)
    ranges: dict[str, list[float]] = json.loads((out / "ranges.json").read_text())
    return ranges


def test_ranges_by_hand(tmp_path: Path, double: OnnxModel) -> None:
    """Row i is i, i + 0.25, i + 0.5; ten of a hundred rows are 0, 10, ... 90, which ends in 90.5. Integers have no range."""
    ranges = calibrated(tmp_path / "out", double, 10)
    assert ranges == {"x": [0.0, 90.5], "shifted": [1.0, 91.5], "y": [2.0, 183.0]}


@pytest.mark.parametrize(("samples", "read", "highest"), [(1, 1, 0.5), (77, 77, 98.5), (100, 100, 99.5), (512, 100, 99.5)])
def test_at_most_the_samples_asked_for(tmp_path: Path, double: OnnxModel, samples: int, read: int, highest: float) -> None:
    """77 of 100 rows end with row 76 * 100 // 77 = 98."""
    assert Calibrate(task=NUMBERS, samples=samples).run(tmp_path, onnx=double)["samples"] == read
    assert json.loads((tmp_path / "ranges.json").read_text())["x"] == [0.0, highest]


def test_bytes_are_the_same_again(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    Calibrate(task=smoke.DIGITS, samples=256).run(tmp_path, onnx=digits_onnx)
    assert (tmp_path / "ranges.json").read_bytes() == (digits_ranges.root / "ranges.json").read_bytes()


def test_every_activation_of_a_network_has_a_range(digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    ranges = json.loads((digits_ranges.root / "ranges.json").read_text())
    graph = onnx.load(digits_onnx.file()).graph
    assert set(ranges) == {"image"} | {name for node in graph.node for name in node.output}
    assert all(low <= high for low, high in ranges.values())
    assert all(ranges[node.output[0]][0] >= 0 for node in graph.node if node.op_type == "Relu")


def test_nan_is_named_when_it_is_read(tmp_path: Path, double: OnnxModel) -> None:
    calibrated(tmp_path / "without", double, 1, "tests.smoke:WithNan")
    with pytest.raises(StageError, match="tensor 'x' takes values from nan to nan"):
        calibrated(tmp_path / "with", double, 100, "tests.smoke:WithNan")


def test_infinity_is_refused_but_minus_infinity_is_a_mask() -> None:
    histograms: dict[str, Histogram] = {}
    gather(histograms, {"scores": np.array([-np.inf, -1, 2], np.float32), "hidden": np.full(3, -np.inf, np.float32)})
    assert {name: (each.low, each.high, each.counts.sum()) for name, each in histograms.items()} == {"scores": (-1, 2, 2)}
    with pytest.raises(StageError, match=r"'scores' takes values from 1\.0 to inf"):
        gather(histograms, {"scores": np.array([1, np.inf], np.float32)})


def test_a_masked_attention_block_is_calibrated(tmp_path: Path) -> None:
    from attar.stages.export import Export

    weights = smoke.weights(tmp_path / "weights", "tests.smoke:attention", NUMBERS)
    (tmp_path / "onnx").mkdir()
    facts = Export(exporter="torchscript").run(tmp_path / "onnx", weights=weights)
    ranges = calibrated(tmp_path / "out", smoke.artifact(OnnxModel, tmp_path / "onnx", facts), 20)
    assert all(np.isfinite(pair).all() for pair in ranges.values())


def test_progress_and_memory_do_not_depend_on_the_number_of_samples(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    seen: list[tuple[str, int, int]] = []
    peaks = []
    for samples in (64, 1024):
        (tmp_path / str(samples)).mkdir()
        with listening(lambda what, done, total, note: seen.append((what, done, total))):
            tracemalloc.start()  # numpy reports its arrays to it
            Calibrate(task=smoke.DIGITS, samples=samples).run(tmp_path / str(samples), onnx=digits_onnx)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert seen[-1] == ("calibrate", 1024, 1024)
    assert peaks[1] < 1.5 * peaks[0]
