"""Calibrate: record which values every tensor of the graph takes on training data."""

from __future__ import annotations

import json
import time
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import Field

from attar.engines.calibration import histogram
from attar.engines.calibration.histogram import Histogram
from attar.engines.graphs.exposure import reveal_tensors
from attar.models.task import Array, Arrays, Task, load_task
from attar.models.views import iterate_spread
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import CodeName, Facts, Stage, open_scratch
from attar.stages.artifacts import OnnxModel, Ranges

BATCH = 32  # samples whose tensors are in memory at once, however many are read
SAVE_SECONDS = 10.0
"""So much work at most is done again after an interruption."""


class Calibrate(Stage[Ranges]):
    """Counts which values each tensor takes, for int8: a histogram of each floating-point tensor,
    with its least and greatest value.

    Samples stream by: memory does not grow with ``samples``, and every range method is computed
    from the same histograms. An interrupted calibration goes on from the last state that was saved,
    and ends with the same bytes.
    """

    task: CodeName
    samples: int = Field(512, ge=1)
    """At most so many of the training split, spread evenly over it and not augmented."""

    def run(self, out: Path, *, onnx: OnnxModel) -> Facts:
        """Raises StageError if a tensor is not finite, or the samples fill no smallest batch."""
        from attar.engines.runtimes import onnxruntime

        task = load_task(self.task)
        split, state = task.split("train"), open_scratch(out) / "histograms.safetensors"
        step, count = self.plan_batches(task, len(split))
        histograms, done = histogram.load_histograms(state) if state.exists() else ({}, 0)
        if done != count and (done % step or done > count):
            raise histogram.make_damage_error(state, f"{done} of {count} samples, {step} at a time")
        graph, batches = reveal_tensors(onnx.file()), iterate_spread(task, split, count, step)
        saved = time.monotonic()
        with onnxruntime.open_session({"model": graph}, None, optimize=False) as predict:
            for batch in islice(batches, -(-done // step), None):
                count_values(histograms, {**batch.inputs, **predict(batch.inputs)})
                done += len(batch.indices)
                report_progress("calibrate", done, count)
                if time.monotonic() - saved >= SAVE_SECONDS:
                    histogram.save_histograms(state, histograms, done)
                    saved = time.monotonic()
        histogram.save_histograms(out / "histograms.safetensors", histograms, done)
        ranges = {
            name: (histograms[name].low, histograms[name].high) for name in sorted(histograms)
        }
        (out / "ranges.json").write_text(json.dumps(ranges, indent=1) + "\n", encoding="utf-8")
        return {"samples": done, "tensors": len(ranges)}

    def plan_batches(self, task: Task, available: int) -> tuple[int, int]:
        """Return the samples of a batch, and of all batches.

        A rest that is smaller than the smallest batch is left out.
        """
        least, most = task.ranges.get("batch", (1, BATCH))
        count, step = min(self.samples, available), max(least, min(BATCH, most))
        if not available:
            raise StageError(
                f"the training split of {self.task} is empty, so there is nothing to calibrate with"
            )
        if count < least:
            raise StageError(
                f"the task {self.task} promises batches of {least} and more, but calibration has "
                f"{count} samples: "
                f"samples = {self.samples}, and the training split has {available}; give it "
                f"{least} or more"
            )
        rest = count % step
        return step, count - rest if rest < least else count


def count_values(histograms: dict[str, Histogram], tensors: Arrays) -> None:
    """Count the values of these tensors; integers and empty tensors have none."""
    for name, tensor in tensors.items():
        values = (
            select_finite(name, tensor)
            if np.issubdtype(tensor.dtype, np.floating)
            else tensor.ravel()[:0]
        )
        if values.size:
            histograms.setdefault(name, Histogram()).add(values)


def select_finite(name: str, tensor: Array) -> Array:
    """Return the values without minus infinity, which masks positions from attention."""
    values, low = tensor, tensor.min(initial=np.inf)  # NaN if any value is
    if low == -np.inf:
        values = tensor[tensor != low]
        low = values.min(initial=np.inf)
    if not values.size:
        return values
    high = values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise StageError(
            f"tensor {name!r} takes values from {low} to {high} on training data, so it has no "
            "range; "
            "look for NaN or infinity in the data, a division by zero, an overflow"
        )
    return values
