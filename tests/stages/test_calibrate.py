from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from attar.engines.calibration import histogram
from attar.engines.calibration.histogram import Histogram
from attar.models.task import Batch, InMemory, Output, Split, SplitName, Tensor
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.pipeline.core.stage import open_scratch
from attar.stages import calibrate
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.calibrate import Calibrate, count_values
from tests.support.projects import tiny
from tests.support.tasks import smoke, stream_task

DOUBLE = """
<ir_version: 9, opset_import: ["" : 18]>
double (float[batch,3] x) => (float[batch,3] y) <float[1] two = {2}, float[1] one = {1}> {
    shifted = Add(x, one)
    rounded = Cast<to=7>(shifted)
    y = Mul(shifted, two)
}
"""
SEQUENCE = """
<ir_version: 9, opset_import: ["" : 18]>
split (float[batch,3] x) => (float[batch,1] y) <int64 one = {1}> {
    parts = SplitToSequence<axis = 1>(x, one)
    part = SequenceAt(parts, one)
    y = Relu(part)
}
"""
NUMBERS = "tests.support.tasks.smoke:ThreeNumbers"


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


def test_a_sequence_has_no_range(tmp_path: Path) -> None:
    """Row i is i, i + 0.25, i + 0.5; the middle of the three parts of ten rows ends in 90.25."""
    onnx.save(onnx.parser.parse_model(SEQUENCE), tmp_path / "model.onnx")
    model = smoke.artifact(OnnxModel, tmp_path, {"graphs": ["model"]})
    assert calibrated(tmp_path / "out", model, 10) == {"x": [0.0, 90.5], "part": [0.25, 90.25], "y": [0.25, 90.25]}


@pytest.mark.parametrize(("samples", "read", "highest"), [(1, 1, 0.5), (77, 77, 98.5), (100, 100, 99.5), (512, 100, 99.5)])
def test_at_most_the_samples_asked_for(tmp_path: Path, double: OnnxModel, samples: int, read: int, highest: float) -> None:
    """77 of 100 rows end with row 76 * 100 // 77 = 98."""
    assert Calibrate(task=NUMBERS, samples=samples).run(tmp_path, onnx=double)["samples"] == read
    assert json.loads((tmp_path / "ranges.json").read_text())["x"] == [0.0, highest]


def test_bytes_are_the_same_again(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    Calibrate(task=smoke.DIGITS, samples=256).run(tmp_path, onnx=digits_onnx)
    for name in ("ranges.json", "histograms.safetensors"):
        assert (tmp_path / name).read_bytes() == (digits_ranges.root / name).read_bytes()


def test_every_activation_of_a_network_has_a_range(digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    ranges = json.loads((digits_ranges.root / "ranges.json").read_text())
    graph = onnx.load(digits_onnx.file()).graph
    assert set(ranges) == {"image"} | {name for node in graph.node for name in node.output}
    assert all(low <= high for low, high in ranges.values())
    assert all(ranges[node.output[0]][0] >= 0 for node in graph.node if node.op_type == "Relu")


def test_nan_is_named_when_it_is_read(tmp_path: Path, double: OnnxModel) -> None:
    calibrated(tmp_path / "without", double, 1, "tests.support.tasks.smoke:WithNan")
    with pytest.raises(StageError, match=r"'x' .*nan to nan"):
        calibrated(tmp_path / "with", double, 100, "tests.support.tasks.smoke:WithNan")


def test_infinity_is_refused_but_minus_infinity_is_a_mask() -> None:
    histograms: dict[str, Histogram] = {}
    count_values(histograms, {"scores": np.array([-np.inf, -1, 2], np.float32), "hidden": np.full(3, -np.inf, np.float32)})
    assert {name: (each.low, each.high, each.counts.sum()) for name, each in histograms.items()} == {"scores": (-1, 2, 2)}
    with pytest.raises(StageError, match=r"'scores' .*1\.0 to inf"):
        count_values(histograms, {"scores": np.array([1, np.inf], np.float32)})


def test_a_masked_attention_block_is_calibrated(tmp_path: Path) -> None:
    from attar.stages.export.stage import Export

    weights = smoke.weights(tmp_path / "weights", "tests.support.tasks.smoke:attention", NUMBERS)
    (tmp_path / "onnx").mkdir()
    facts = Export(exporter="torchscript").run(tmp_path / "onnx", weights=weights)
    ranges = calibrated(tmp_path / "out", smoke.artifact(OnnxModel, tmp_path / "onnx", facts), 20)
    assert all(np.isfinite(pair).all() for pair in ranges.values())


class RaggedRows(InMemory):
    """Batches as long as their longest sample: rows of 1, 2, 3, 1, 2, 3, ... numbers."""

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        longest = int(indices.max()) % 3 + 1
        return Batch({"x": np.asarray(self.inputs["x"])[indices, :longest]}, {})


class LengthNumbers(smoke.ThreeNumbers):
    inputs = {"x": Tensor("float32", ("batch", "length"))}
    outputs = {"y": Output(("batch", "length"), kind="values")}
    ranges = {"batch": (1, 1), "length": (1, 3)}

    def split(self, name: SplitName) -> Split:
        return RaggedRows({"x": self.numbers()}, {})


def test_samples_of_different_lengths(tmp_path: Path) -> None:
    """One at a time: rows 0, 3, ... 99 give one number each, 1, 4, ... two, 2, 5, ... three; 199 in all."""
    onnx.save(onnx.parser.parse_model(DOUBLE.replace(",3]", ",length]")), tmp_path / "model.onnx")
    model = smoke.artifact(OnnxModel, tmp_path, {"graphs": ["model"]})
    ranges = calibrated(tmp_path / "out", model, 100, "tests.stages.test_calibrate:LengthNumbers")
    assert ranges == {"x": [0.0, 99.0], "shifted": [1.0, 100.0], "y": [2.0, 200.0]}
    histograms, samples = histogram.load_histograms(tmp_path / "out" / "histograms.safetensors")
    assert samples == 100
    assert {name: each.counts.sum() for name, each in histograms.items()} == dict.fromkeys(ranges, 34 + 33 * 2 + 33 * 3)


class LargeBatchNumbers(smoke.ThreeNumbers):
    """Batches of 24 at least."""

    ranges = {"batch": (24, 64)}


class TooFewNumbers(LargeBatchNumbers):
    def split(self, name: SplitName) -> Split:
        return InMemory({"x": self.numbers()[:23]}, {})


class EmptyNumbers(smoke.ThreeNumbers):
    def split(self, name: SplitName) -> Split:
        return InMemory({"x": self.numbers()[:0]}, {})


def test_fewer_samples_than_the_smallest_batch(tmp_path: Path, double: OnnxModel) -> None:
    said = "batches of 24 and more, but calibration has 23 samples: samples = 512, and the training split has 23; give it 24 or"
    with pytest.raises(StageError, match=said):
        calibrated(tmp_path / "few", double, 512, "tests.stages.test_calibrate:TooFewNumbers")
    with pytest.raises(StageError, match=r"samples = 9, .* 100"):
        calibrated(tmp_path / "asked", double, 9, "tests.stages.test_calibrate:LargeBatchNumbers")


def test_a_rest_smaller_than_the_smallest_batch_is_left_out(tmp_path: Path, double: OnnxModel) -> None:
    """Of 100 three batches of 32, and not the 4 that are left; of 60 one of 32 and the other 28."""
    for asked, read in ((100, 96), (60, 60)):
        (tmp_path / str(asked)).mkdir()
        facts = Calibrate(task="tests.stages.test_calibrate:LargeBatchNumbers", samples=asked).run(
            tmp_path / str(asked), onnx=double
        )
        assert facts["samples"] == read


def test_an_empty_split(tmp_path: Path, double: OnnxModel) -> None:
    with pytest.raises(StageError, match=":EmptyNumbers is empty"):
        calibrated(tmp_path / "out", double, 512, "tests.stages.test_calibrate:EmptyNumbers")


STREAM = "tests.support.tasks.stream_task:Stream"
CHILD = """
import os, sys
from pathlib import Path
from attar.pipeline.core.progress import listen_to_progress
from attar.stages import calibrate
from attar.stages.artifacts import OnnxModel

out, samples, fatal = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
calibrate.SAVE_SECONDS = 0.0 if fatal else calibrate.SAVE_SECONDS
with listen_to_progress(lambda what, done, total, note: os.kill(os.getpid(), 9) if done == fatal else None):
    onnx = OnnxModel("", "", out.parent, {"graphs": ["model"]})
    calibrate.Calibrate(task="tests.support.tasks.stream_task:Stream", samples=samples).run(out, onnx=onnx)
status = Path("/proc/self/status").read_text()
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


def child(folder: Path, samples: int, fatal: int = 0) -> subprocess.CompletedProcess[str]:
    """Calibrate the stream's network into ``FOLDER/out`` in a process of its own, which kills itself after so many samples.

    It prints its peak memory in KiB; the kernel's, because getrusage of a child begins with what its parent had.
    """
    (folder / "out").mkdir(parents=True)
    onnx.save(stream_task.convolutions(), folder / "model.onnx")
    command = [sys.executable, "-c", CHILD, str(folder / "out"), str(samples), str(fatal)]
    return subprocess.run(command, env=tiny.environment(), capture_output=True, text=True, check=False)


def payload(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_killed_calibration_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """Killed after 160 of 320 samples, when the state of 128 was saved: the rest is read, and nothing twice."""
    whole, out = tmp_path / "whole", tmp_path / "killed" / "out"
    assert child(whole, 320).returncode == 0
    assert child(out.parent, 320, fatal=160).returncode == -9
    assert list(out.iterdir()) == []
    assert histogram.load_histograms(out.parent / "scratch" / "histograms.safetensors")[1] == 128
    seen: list[int] = []
    with listen_to_progress(lambda what, done, total, note: seen.append(done)):
        Calibrate(task=STREAM, samples=320).run(out, onnx=smoke.artifact(OnnxModel, out.parent, {"graphs": ["model"]}))
    assert seen == [160, 192, 224, 256, 288, 320]
    assert payload(out) == payload(whole / "out")


def test_a_state_that_is_complete_is_not_read_on(tmp_path: Path, double: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 samples in batches of 8 the last batch is a smaller one."""
    calibrated(tmp_path / "calm", double, 100)
    monkeypatch.setattr(calibrate, "SAVE_SECONDS", 0.0)
    (tmp_path / "work").mkdir()
    calibrated(tmp_path / "work" / "first", double, 100)
    assert histogram.load_histograms(tmp_path / "work" / "scratch" / "histograms.safetensors")[1] == 100
    calibrated(tmp_path / "work" / "again", double, 100)
    assert payload(tmp_path / "work" / "again") == payload(tmp_path / "calm")


def test_the_state_of_another_calibration_is_refused(tmp_path: Path, double: OnnxModel) -> None:
    out = tmp_path / "work" / "out"
    out.mkdir(parents=True)
    for done in (33, 128):
        histogram.save_histograms(open_scratch(out) / "histograms.safetensors", {}, done)
        with pytest.raises(StageError, match=rf"histograms\.safetensors .*\({done} of 100"):
            Calibrate(task=NUMBERS).run(out, onnx=double)


@pytest.mark.slow
def test_peak_memory_of_8192_samples_is_that_of_256(tmp_path: Path) -> None:
    peaks = {samples: int(child(tmp_path / str(samples), samples).stdout) for samples in (256, 8192)}
    assert peaks[8192] < 1.05 * peaks[256], peaks


def test_progress_and_memory_do_not_depend_on_the_number_of_samples(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    seen: list[tuple[str, int, int]] = []
    peaks = []
    for samples in (64, 1024):
        (tmp_path / str(samples)).mkdir()
        with listen_to_progress(lambda what, done, total, note: seen.append((what, done, total))):
            tracemalloc.start()  # numpy reports its arrays to it
            Calibrate(task=smoke.DIGITS, samples=samples).run(tmp_path / str(samples), onnx=digits_onnx)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert seen[-1] == ("calibrate", 1024, 1024)
    assert peaks[1] < 1.5 * peaks[0]
