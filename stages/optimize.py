"""Optimize: precision is baked into the graph, so that every runtime computes the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from attar.pipeline.progress import advance
from attar.pipeline.stage import Facts, Stage
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.precision import fp32, int8


class Optimize(Stage[OnnxModel]):
    """``fp32`` keeps the graph; ``int8`` puts Q-DQ pairs around what has int8 kernels, from the calibration's ranges."""

    precision: Literal["fp32", "int8"] = "fp32"
    per_channel: bool = True
    """A scale for each output channel of a weight instead of one for the whole weight. int8 only."""
    exclude: tuple[str, ...] = ()
    """Names of nodes that stay float. int8 only."""

    def run(self, out: Path, *, onnx: OnnxModel, calibration: Ranges) -> Facts:
        """Raises StageError when nothing can be quantized, or the calibration belongs to another graph."""
        advance("optimize", 0, 1, self.precision)
        made = self.write(onnx.file(), out / "model.onnx", calibration)
        advance("optimize", 1, 1, self.precision)
        passed_on = ("graphs", "opset", "inputs", "outputs", "parameters")
        return {name: onnx.facts[name] for name in passed_on} | {"precision": self.precision} | made

    def write(self, source: Path, target: Path, calibration: Ranges) -> dict[str, Any]:
        if self.precision == "fp32":
            fp32.keep(source, target)
            return {}
        ranges = json.loads((calibration.root / "ranges.json").read_text())
        return int8.quantize(source, target, ranges, self.per_channel, self.exclude)
