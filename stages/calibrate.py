"""Calibrate: what values does every tensor of the graph take on training data?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from attar.models.task import Array, Arrays, Task, load_task
from attar.models.views import clean
from attar.pipeline.errors import StageError
from attar.pipeline.progress import advance
from attar.pipeline.stage import CodeName, Facts, Stage
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.precision.graphs import revealed

BATCH = 32  # samples whose tensors are in memory at once, however many are read


class Calibrate(Stage[Ranges]):
    """Smallest and largest value of each floating-point tensor, kept while the samples stream by.

    Jacob et al. 2018, arXiv:1712.05877, section 3, call for these ranges; memory does not grow with ``samples``.
    """

    task: CodeName
    samples: int = Field(512, ge=1)
    """How many samples of the training split, from its start and not augmented."""

    def run(self, out: Path, *, onnx: OnnxModel) -> Facts:
        """Raises StageError when the split is too small or a tensor is not finite."""
        from attar.stages.runtimes import onnxruntime

        task = load_task(self.task)
        ranges: dict[str, tuple[float, float]] = {}
        done = 0
        with onnxruntime.opened({"model": revealed(onnx.file())}, None, optimize=False) as predict:
            for inputs in self.batches(task):
                widen(ranges, {**inputs, **predict(inputs)})
                done += len(next(iter(inputs.values())))
                advance("calibrate", done, self.samples)
        (out / "ranges.json").write_text(json.dumps(dict(sorted(ranges.items())), indent=1) + "\n")
        return {"samples": done, "tensors": len(ranges), "method": "minmax"}

    def batches(self, task: Task) -> Iterator[Arrays]:
        """Inputs of exactly ``samples`` samples, in batches that the task promises to be possible."""
        split = task.split("train")
        if len(split) < self.samples:
            raise StageError(f"calibration wants {self.samples} training samples, the split has {len(split)}; lower `samples`")
        step = min(BATCH, task.ranges.get("batch", (1, BATCH))[1])
        left = self.samples
        for seen in clean(task, split, self.samples):
            usable = min(left, len(seen.indices))
            for row in range(0, usable, step):
                yield seen.take(np.arange(row, min(row + step, usable))).inputs
            left -= usable


def widen(ranges: dict[str, tuple[float, float]], tensors: Arrays) -> None:
    """Extend each tensor's range by these values; integers and empty tensors have none."""
    for name, tensor in tensors.items():
        values = unmasked(tensor) if np.issubdtype(tensor.dtype, np.floating) else tensor[:0]
        if values.size:
            low, high = extremes(name, values)
            known = ranges.get(name, (low, high))
            ranges[name] = (min(low, known[0]), max(high, known[1]))


def unmasked(tensor: Array) -> Array:
    """Without minus infinity, which marks positions that attention must not see: it is no value to make room for."""
    masked = tensor == np.float32(-np.inf)
    return tensor[~masked] if masked.any() else tensor


def extremes(name: str, values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise StageError(
            f"tensor {name!r} takes values from {low} to {high} on training data, so it has no range; "
            "look for NaN or infinity in the data, a division by zero, an overflow"
        )
    return low, high
