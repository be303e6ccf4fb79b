"""Calibrate: what values does every tensor of the graph take on training data?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pydantic import Field

from attar.models.task import Array, Arrays, load_task
from attar.models.views import spread
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
    """At most so many of the training split, spread evenly over it and not augmented."""

    def run(self, out: Path, *, onnx: OnnxModel) -> Facts:
        """Raises StageError when a tensor is not finite."""
        from attar.stages.runtimes import onnxruntime

        task = load_task(self.task)
        ranges: dict[str, tuple[float, float]] = {}
        done = 0
        with onnxruntime.opened({"model": revealed(onnx.file())}, None, optimize=False) as predict:
            step = min(BATCH, task.ranges.get("batch", (1, BATCH))[1])
            for seen in spread(task, task.split("train"), self.samples, step):
                widen(ranges, {**seen.inputs, **predict(seen.inputs)})
                done += len(seen.indices)
                advance("calibrate", done, self.samples)
        (out / "ranges.json").write_text(json.dumps(dict(sorted(ranges.items())), indent=1) + "\n")
        return {"samples": done, "tensors": len(ranges), "method": "minmax"}


def widen(ranges: dict[str, tuple[float, float]], tensors: Arrays) -> None:
    """Extend each tensor's range by these values; integers and empty tensors have none."""
    for name, tensor in tensors.items():
        values = unmasked(tensor) if np.issubdtype(tensor.dtype, np.floating) else tensor.ravel()[:0]
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
