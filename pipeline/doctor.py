"""Doctor: what this machine can do, found out without importing anything heavy."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from attar.pipeline import machine

PARTS = {
    "train": ("torch", "accelerate", "onnx", "onnxscript", "matplotlib", "jinja2"),
    "core": ("onnxruntime", "numpy", "safetensors", "pydantic", "click", "rich", "filelock"),
}


def examine() -> dict[str, Any]:
    """The machine, installed versions by extra, and which commands can run."""
    versions = {extra: {name: version(name) for name in names} for extra, names in PARTS.items()}
    missing = [name for name, found in versions["train"].items() if found == "not installed"]
    can_train = f"no: install attar[train] for {', '.join(missing)}" if missing else "yes"
    both = version("onnxruntime") != "not installed" and version("onnxruntime-gpu") != "not installed"
    return {
        "machine": machine.describe(),
        **versions,
        "train and export": can_train,
        "conflict": "onnxruntime and onnxruntime-gpu shadow each other: uninstall one" if both else "none",
    }


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
