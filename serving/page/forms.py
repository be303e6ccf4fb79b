"""The forms in which the page asks for one sample of an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attar.models.preprocess.images import CenterCrop, ChannelsFirst, DecodeImage, Resize
from attar.models.preprocess.numbers import Scale
from attar.models.preprocess.step import Step
from attar.models.tensors import TensorSpec
from attar.serving.protocol.signature import BYTES, find_datatype

SIDE = 224
"""Pixels of each side of a drawing for a model that takes any size."""
Steps = Sequence[Step]


def describe_form(
    spec: TensorSpec, steps: Steps, ranges: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """Return how one sample is entered: an ``image``, a ``text``, or else the numbers of
    ``json``."""
    made = {"name": spec.name, "datatype": find_datatype(spec)}
    if decode := next((step for step in steps if isinstance(step, DecodeImage)), None):
        return {
            **made,
            "kind": "image",
            "file": True,
            **describe_canvas(SIDE, SIDE, 3 if decode.mode == "RGB" else 1),
        }
    if find_datatype(spec) == BYTES:
        return {**made, "kind": "text"}
    if found := find_canvas(spec, steps):
        return {
            **made,
            "kind": "image",
            "file": False,
            **found,
            "high": find_white(spec, steps),
        }
    shape = [
        axis if isinstance(axis, int) else max(1, ranges.get(axis, (1, 1))[0]) for axis in spec.axes
    ]
    return {**made, "kind": "json", "shape": shape}


def find_canvas(spec: TensorSpec, steps: Steps) -> dict[str, Any] | None:
    """Return its canvas where ``[N, C, H, W]`` or ``[N, H, W, C]`` can be an image, else None."""
    if len(spec.axes) != 4 or find_datatype(spec) == "BOOL":
        return None
    one, two, three = (axis if isinstance(axis, int) else SIDE for axis in spec.axes[1:])
    if three in (1, 3) and (
        one not in (1, 3)
        or any(isinstance(step, Resize | CenterCrop | ChannelsFirst) for step in steps)
    ):
        return describe_canvas(one, two, three)
    return describe_canvas(two, three, one, first=True) if one in (1, 3) else None


def describe_canvas(height: int, width: int, channels: int, first: bool = False) -> dict[str, Any]:
    return {"height": height, "width": width, "channels": channels, "first": first}


def find_white(spec: TensorSpec, steps: Steps) -> float:
    """Return the number for white, as far as the steps tell: what they scale to 1, or else
    the usual."""
    scale = next((step for step in steps if isinstance(step, Scale)), None)
    usual = 1.0 if find_datatype(spec).startswith("FP") else 255.0
    return usual if scale is None or scale.by <= 0 else round(1 / scale.by, 6)
