"""NNCF's post-training int8 for OpenVINO: ``nncf.quantize`` with its defaults, over all of the
samples instead of the first 300.

``python build_nncf.py MODEL SAMPLES OUT``, in an environment without attar.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino

if __name__ == "__main__":
    model, samples, out = map(Path, sys.argv[1:])
    arrays = dict(np.load(samples))
    rows = [
        {name: array[i : i + 1] for name, array in arrays.items()}
        for i in range(len(next(iter(arrays.values()))))
    ]
    quantized = nncf.quantize(
        openvino.Core().read_model(model), nncf.Dataset(rows), subset_size=len(rows)
    )
    openvino.save_model(quantized, out / "model.xml")
