"""Olive's int8: a workflow of one pass, ``OnnxStaticQuantization``, with nothing but its defaults.

``python build_olive.py MODEL SAMPLES OUT``, in an environment without attar.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from olive import run
from olive.data.registry import Registry
from torch.utils.data import Dataset

model, samples, out = map(Path, sys.argv[1:])


class OliveSamples(Dataset[Any]):
    """``(inputs, label)`` as Olive wants it; it does not look at the label."""

    def __init__(self) -> None:
        self.arrays = dict(np.load(samples))

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
        return {name: array[index] for name, array in self.arrays.items()}, 0


@Registry.register_dataset("samples")  # type: ignore[untyped-decorator]  # Olive is untyped
def load_samples(**_: Any) -> OliveSamples:
    return OliveSamples()


if __name__ == "__main__":
    run(
        {
            "input_model": {"type": "OnnxModel", "model_path": str(model)},
            "data_configs": [{"name": "calibration", "load_dataset_config": {"type": "samples"}}],
            "passes": {"int8": {"type": "OnnxStaticQuantization", "data_config": "calibration"}},
            "output_dir": str(out),
            "cache_dir": str(out / "cache"),
            "log_severity_level": 3,
        }
    )
    if not list(out.glob("*.onnx")):
        sys.exit("Olive made no model")  # it ends with 0 when a pass fails
