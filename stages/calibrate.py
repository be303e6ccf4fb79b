"""Calibrate: what values does every tensor of the graph take on training data?"""

from __future__ import annotations

import json
import time
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import Field

from attar.models.task import Array, Arrays, Task, load_task
from attar.models.views import spread
from attar.pipeline.errors import StageError
from attar.pipeline.progress import advance
from attar.pipeline.stage import CodeName, Facts, Stage, scratch
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.precision import histogram
from attar.stages.precision.graphs import revealed
from attar.stages.precision.histogram import Histogram

BATCH = 32  # samples whose tensors are in memory at once, however many are read
SAVE_SECONDS = 10.0
"""So much work at most is done again after an interruption."""


class Calibrate(Stage[Ranges]):
    """A histogram of the values of each floating-point tensor, and the least and the greatest, while the samples stream by.

    Memory does not grow with ``samples``, and every range method is computed from the same histograms. Interrupted, it goes on
    from the last state that was saved, and ends with the same bytes.
    """

    task: CodeName
    samples: int = Field(512, ge=1)
    """At most so many of the training split, spread evenly over it and not augmented."""

    def run(self, out: Path, *, onnx: OnnxModel) -> Facts:
        """Raises StageError when a tensor is not finite, and for fewer samples than the task's smallest batch."""
        from attar.stages.runtimes import onnxruntime

        task = load_task(self.task)
        split, state = task.split("train"), scratch(out) / "histograms.safetensors"
        step, count = self.batches(task, len(split))
        histograms, done = histogram.load(state) if state.exists() else ({}, 0)
        if done != count and (done % step or done > count):
            raise histogram.damaged(state, f"{done} of {count} samples, {step} at a time")
        saved = time.monotonic()
        with onnxruntime.opened({"model": revealed(onnx.file())}, None, optimize=False) as predict:
            for seen in islice(spread(task, split, count, step), -(-done // step), None):
                gather(histograms, {**seen.inputs, **predict(seen.inputs)})
                done += len(seen.indices)
                advance("calibrate", done, count)
                if time.monotonic() - saved >= SAVE_SECONDS:
                    histogram.save(state, histograms, done)
                    saved = time.monotonic()
        histogram.save(out / "histograms.safetensors", histograms, done)
        ranges = {name: (histograms[name].low, histograms[name].high) for name in sorted(histograms)}
        (out / "ranges.json").write_text(json.dumps(ranges, indent=1) + "\n", encoding="utf-8")
        return {"samples": done, "tensors": len(ranges)}

    def batches(self, task: Task, available: int) -> tuple[int, int]:
        """The samples of a batch, and of all: a rest that is smaller than the smallest batch is left out."""
        least, most = task.ranges.get("batch", (1, BATCH))
        count, step = min(self.samples, available), max(least, min(BATCH, most))
        if not available:
            raise StageError(f"the training split of {self.task} is empty, so there is nothing to calibrate with")
        if count < least:
            raise StageError(
                f"the task {self.task} promises batches of {least} and more, but calibration has {count} samples: "
                f"samples = {self.samples}, and the training split has {available}; give it {least} or more"
            )
        rest = count % step
        return step, count - rest if rest < least else count


def gather(histograms: dict[str, Histogram], tensors: Arrays) -> None:
    """Count what these hold; integers and empty tensors have no values to count."""
    for name, tensor in tensors.items():
        values = finite(name, tensor) if np.issubdtype(tensor.dtype, np.floating) else tensor.ravel()[:0]
        if values.size:
            histograms.setdefault(name, Histogram()).add(values)


def finite(name: str, tensor: Array) -> Array:
    """Without minus infinity, which marks positions that attention must not see: it is no value to make room for."""
    values, low = tensor, tensor.min(initial=np.inf)  # NaN if any value is
    if low == -np.inf:
        values = tensor[tensor != low]
        low = values.min(initial=np.inf)
    if not values.size:
        return values
    high = values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise StageError(
            f"tensor {name!r} takes values from {low} to {high} on training data, so it has no range; "
            "look for NaN or infinity in the data, a division by zero, an overflow"
        )
    return values
