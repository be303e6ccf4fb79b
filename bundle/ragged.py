"""Ragged: raw inputs that are no tensors, such as texts and files, as tensors: safetensors holds
nothing else.

An input NAME of N samples becomes two: ``NAME:KIND``, uint8 ``[N, longest]``, the bytes of each
with zeros behind; and ``NAME:shape``, int64 ``[N, axes]``, whose products say how many of them
count. The kind is ``text`` (UTF-8), ``bytes``, or ``uint8`` (images of different sizes).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from attar.models.task import Array, Arrays
from attar.models.tensors import describe_array
from attar.pipeline.core.errors import StageError

KINDS: dict[str, type] = {"text": str, "bytes": bytes, "uint8": np.ndarray}


def encode_samples(name: str, array: Array) -> dict[str, Array]:
    """Numbers pass unchanged. Raises StageError for objects of other kinds."""
    if array.dtype.kind not in "OU":
        return {name: np.ascontiguousarray(array)}
    rows: list[Any] = array.tolist() if array.ndim == 1 else [None]
    kind = kind_of(rows)
    if kind is None:
        raise StageError(
            f"golden requests cannot hold {name.removeprefix('raw.')!r}: raw samples must be "
            "numbers, or an array [N] of str, of bytes or of uint8 arrays with as many axes each; "
            "let Task.split give one of these"
        )
    flat = [
        row.encode() if kind == "text" else row if kind == "bytes" else row.tobytes()
        for row in rows
    ]
    matrix = np.zeros((len(rows), max(map(len, flat), default=0)), np.uint8)
    for made, content in zip(matrix, flat, strict=True):
        made[: len(content)] = np.frombuffer(content, np.uint8)
    shapes = [
        row.shape if kind == "uint8" else (len(content),)
        for row, content in zip(rows, flat, strict=True)
    ]
    return {f"{name}:{kind}": matrix, f"{name}:shape": np.array(shapes, np.int64)}


def kind_of(rows: list[Any]) -> str | None:
    for kind, of in KINDS.items():
        if all(isinstance(row, of) for row in rows):
            alike = kind != "uint8" or {(row.dtype, row.ndim) for row in rows} == {
                (np.dtype(np.uint8), rows[0].ndim)
            }
            return kind if alike else None
    return None


def decode_samples(tensors: Arrays) -> dict[str, Array]:
    """Back again, as object arrays; what is no such pair passes unchanged. Raises ValueError for a
    pair that does not fit."""
    made = dict(tensors)
    for each in tensors:
        name, _, kind = each.partition(":")
        if kind in KINDS and f"{name}:shape" in made and name not in made:
            made[name] = read_rows(kind, made.pop(each), made.pop(f"{name}:shape"))
    return made


def read_rows(kind: str, matrix: Array, shapes: Array) -> Array:
    dtypes, axes = (matrix.dtype.name, shapes.dtype.name), (matrix.ndim, shapes.ndim)
    is_pair = dtypes == ("uint8", "int64") and axes == (2, 2)
    if not is_pair or len(matrix) != len(shapes) or shapes.shape[1] == 0:
        raise ValueError(f"{kind} as {describe_array(matrix)} and {describe_array(shapes)}")
    made = np.empty(len(matrix), object)
    for row, shape in enumerate(shapes.tolist()):
        size = prod(shape)
        if min(shape) < 0 or size > matrix.shape[1] or (kind != "uint8" and len(shape) != 1):
            raise ValueError(f"sample {row} of shape {shape} in {matrix.shape[1]} bytes")
        content = matrix[row, :size]
        made[row] = content.reshape(shape) if kind == "uint8" else content.tobytes()
        if kind == "text":
            made[row] = made[row].decode()
    return made
