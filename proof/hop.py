"""The hops: the forms of one network between the teacher and the engine, and their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

HopName = Literal[
    "teacher", "reference", "student", "control", "onnx", "model", "production", "engine"
]
HOPS: tuple[HopName, ...] = (
    "teacher",
    "reference",
    "student",
    "control",
    "onnx",
    "model",
    "production",
    "engine",
)
"""In the order of the ledger."""
CHAIN: tuple[HopName, ...] = ("teacher", "student", "onnx", "model", "engine")
"""The way from teacher to engine. `reference`, `control` and `production` stand beside it."""
STUDENT_HOPS = CHAIN[1:]
"""The hops that are compared with the teacher one after the other, to find the first broken one."""
CONVERSIONS: tuple[HopName, ...] = ("reference", "onnx", "model", "engine")
"""The hops that were made from another hop."""
PREVIOUS_HOP: Mapping[str, HopName] = {
    "reference": "teacher",
    "onnx": "student",
    "model": "onnx",
    "engine": "model",
}
"""The hop that each conversion was made from."""
