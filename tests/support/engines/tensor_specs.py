"""Tensors as the protocol describes them."""

from __future__ import annotations

from attar.models.tensors import Axes, TensorSpec
from attar.serving.protocol.signature import BYTES, DATATYPES

DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


def make_spec(name: str, datatype: str, axes: Axes, text: bool = False, high: int | None = None) -> TensorSpec:
    """Return the spec of a tensor from the protocol's name of its dtype."""
    dtype = ("str" if text else "bytes") if datatype == BYTES else DTYPES[datatype]
    return TensorSpec(dtype, axes, high=high, name=name)
