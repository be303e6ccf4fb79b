"""What calibration costs: peak memory and CPU time for more and more samples, beside ONNX Runtime's
histogram calibrators."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from attar.engines.runtimes import onnxruntime
from attar.models.views import iterate_spread
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.calibrate import BATCH, Calibrate
from benchmarks.measuring import count_cpu_seconds
from tests.support.tasks.stream_task import Stream, convolutions

TASK = "tests.support.tasks.stream_task:Stream"
SAMPLES = (256, 1024, 2048, 8192)
MOST = {"percentile": 2048, "entropy": 2048}
"""ONNX Runtime keeps what it has seen: with more samples it would need gigabytes."""
GOAL = 1.05
METHODS = ("minmax", "percentile", "entropy", "mse")


def prepare_attar(folder: Path, samples: int) -> Callable[[], object]:
    model = OnnxModel("", "", folder, {"graphs": ["model"]})
    (folder / "out").mkdir()
    return lambda: Calibrate(task=TASK, samples=samples).run(folder / "out", onnx=model)


def prepare_peer(folder: Path, samples: int, method: str) -> Callable[[], object]:
    from onnxruntime.quantization import calibrate

    kind = {"percentile": calibrate.PercentileCalibrater, "entropy": calibrate.EntropyCalibrater}[
        method
    ]
    task = Stream()
    batches = iter(
        [seen.inputs for seen in iterate_spread(task, task.split("train"), samples, BATCH)]
    )

    class CalibrationBatches:
        def get_next(self) -> Any:
            return next(batches, None)

    calibrater = kind(folder / "model.onnx", augmented_model_path=str(folder / "augmented.onnx"))
    calibrater.augment_graph()
    calibrater.create_inference_session()

    def collect_batches() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            calibrater.collect_data(CalibrationBatches())

    return collect_batches


def print_costs(method: str, samples: int) -> None:
    """Print the peak memory of this process in MiB, the CPU seconds of collecting and, of ours,
    those of each range method."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        onnx.save(convolutions(), folder / "model.onnx")
        collect = (
            prepare_attar(folder, samples)
            if method == "attar"
            else prepare_peer(folder, samples, method)
        )
        found: dict[str, Any] = {
            "seconds": count_cpu_seconds(collect),
            "memory": read_peak_memory(),
        }
        if method == "attar":
            ranges = Ranges("", "", folder / "out", {})
            found |= {
                name: count_cpu_seconds(partial(ranges.compute_ranges, name)) for name in METHODS
            }
    print(json.dumps(found))


def read_peak_memory() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure_method(method: str, samples: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.calibration", "--child", method, str(samples)]
    found: dict[str, float] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, metavar=("METHOD", "SAMPLES"))
    asked = parser.parse_args().child
    if asked:
        print_costs(asked[0], int(asked[1]))
        return
    version = onnxruntime.OnnxRuntime().get_version()
    print(
        f"{platform.machine()}, ONNX Runtime {version}, {datetime.now(UTC):%d %B %Y}, batches of "
        f"{BATCH}\n"
    )
    print(
        "| samples | attar, all methods | ONNX Runtime, percentile | ONNX Runtime, entropy |\n| "
        "--- | --- | --- | --- |"
    )
    peaks: dict[int, dict[str, float]] = {}
    for samples in SAMPLES:
        peaks[samples] = measure_method("attar", samples)
        cells = [
            peaks[samples],
            *(
                measure_method(method, samples) if samples <= most else None
                for method, most in MOST.items()
            ),
        ]
        said = [
            f"{each['memory']:.0f} MiB, {each['seconds']:.1f} s" if each else "not run"
            for each in cells
        ]
        print(f"| {samples:,} | {' | '.join(said)} |")
    of = ", ".join(f"{name} {1000 * peaks[SAMPLES[-1]][name]:.0f} ms" for name in METHODS)
    print(f"\nRanges of all tensors: {of}")
    assert peaks[SAMPLES[-1]]["memory"] < GOAL * peaks[SAMPLES[0]]["memory"]


if __name__ == "__main__":
    main()
