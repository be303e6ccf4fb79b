"""ONNX Runtime's own static int8, as its documentation tells: pre-processing, then
``quantize_static`` with nothing but defaults.

``python build_onnxruntime.py MODEL SAMPLES OUT``, in an environment without attar.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class CalibrationSamples(CalibrationDataReader):  # type: ignore[misc]  # untyped
    """One sample at a time."""

    def __init__(self, file: Path) -> None:
        arrays = dict(np.load(file))
        count = len(next(iter(arrays.values())))
        self.rows: Iterator[dict[str, Any]] = (
            {n: a[i : i + 1] for n, a in arrays.items()} for i in range(count)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self.rows, None)


if __name__ == "__main__":
    model, samples, out = map(Path, sys.argv[1:])
    quant_pre_process(model, out / "prepared.onnx")
    quantize_static(out / "prepared.onnx", out / "model.onnx", CalibrationSamples(samples))
    (out / "prepared.onnx").unlink()
