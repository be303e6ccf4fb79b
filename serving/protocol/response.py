"""The response of the Open Inference Protocol v2: built from a model's outputs, and written as
HTTP has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import orjson

from attar.models.task import Array
from attar.serving.core.errors import BadRequestError
from attar.serving.protocol.request import MEANT, InferenceRequest, OutputRequest
from attar.serving.protocol.tensors import (
    PIECE_VALUES,
    find_array_datatype,
    make_object_array,
    write_binary_tensor,
    write_json_tensor,
)

CLASS_VALUES = 20
"""Naming a class takes as long as writing so many values as JSON. Measured with 1,000 classes."""


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]
    binary: frozenset[str] | set[str]
    """The outputs to send as bytes."""
    parameters: Mapping[str, Any]


def is_quick(infer: InferenceRequest, found: Mapping[str, Array], *, has_json: bool) -> bool:
    """Whether the response may be built and written on the event loop; ``has_json``: whether
    outputs are written as JSON unless they are asked for as bytes."""
    values = (count_values(each, found[each.name], has_json) for each in infer.wanted)
    return sum(values) <= PIECE_VALUES


def count_values(each: OutputRequest, values: Array, has_json: bool) -> int:
    """Return how many values as JSON would take as long as this output."""
    if not each.classes:
        return values.size if has_json and not each.binary else 0
    most = max(values.shape[-1:], default=1) or 1
    return values.size + CLASS_VALUES * (values.size // most) * min(each.classes, most)


def build_response(
    infer: InferenceRequest,
    found: Mapping[str, Array],
    model: str,
    version: str,
    labels: Sequence[str] = (),
) -> InferenceResponse:
    """Return what was asked for, of all outputs of the model."""
    for each in infer.wanted:
        if each.classes:
            check_finite(each.name, found[each.name])
    made = {
        each.name: find_top_classes(found[each.name], each.classes, labels)
        if each.classes
        else found[each.name]
        for each in infer.wanted
    }
    binary = {each.name for each in infer.wanted if each.binary}
    echoed = (
        {name: value for name, value in infer.parameters.items() if name not in MEANT}
        if infer.parameters
        else {}
    )
    return InferenceResponse(model, version, infer.id, made, binary, echoed)


def check_finite(name: str, values: Array) -> None:
    """Raises BadRequestError for Inf and NaN in an output that is to be written as text.

    Values that are too large for the model lead there, so it is no fault of the server.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BadRequestError(
            f"the output {name!r} holds Inf or NaN for these values, which JSON has no "
            "numbers for; send others, or ask for "
            "binary data"
        )


def find_top_classes(values: Array, classes: int, labels: Sequence[str]) -> Array:
    """Return the largest of ``[..., C]`` as BYTES ``[..., min(classes, C)]``.

    Raises BadRequestError without an axis of classes.
    """
    if values.ndim == 0 or values.dtype == object:
        raise BadRequestError("classification needs an output with an axis of classes")
    *axes, most = values.shape
    rows, at_once = values.reshape(prod(axes), most), max(PIECE_VALUES // max(most, 1), 1)
    pieces = (rows[start : start + at_once] for start in range(0, len(rows), at_once))
    found = [name for piece in pieces for name in name_top_classes(piece, classes, labels)]
    return make_object_array(found).reshape(*axes, min(classes, most))


def name_top_classes(values: Array, classes: int, labels: Sequence[str]) -> list[bytes]:
    """Return the largest of each row of ``[N, C]``, one row after the other."""
    best = np.argsort(-np.asarray(values, np.float64), axis=-1, kind="stable")[:, :classes]
    named = len(labels) == values.shape[-1]
    rows = zip(
        best.ravel().tolist(), np.take_along_axis(values, best, -1).ravel().tolist(), strict=True
    )
    return [f"{value:f}:{i}{':' + labels[i] if named else ''}".encode() for i, value in rows]


def write_response(answer: InferenceResponse) -> tuple[list[bytes | memoryview], int | None]:
    """Return the body in pieces, and the length of its JSON where bytes follow it."""
    behind: list[memoryview] = []
    described = [
        describe_output(name, tensor, name in answer.binary, behind)
        for name, tensor in answer.outputs.items()
    ]
    head: dict[str, Any] = {
        "model_name": answer.model,
        "model_version": answer.version,
        "outputs": described,
    }
    if answer.id:
        head["id"] = answer.id
    if answer.parameters:
        head["parameters"] = answer.parameters
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return ([text, *behind], len(text)) if behind else ([text], None)


def describe_output(
    name: str, tensor: Array, binary: bool, behind: list[memoryview]
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "datatype": find_array_datatype(tensor),
        "shape": tensor.shape,
    }
    if binary:
        behind.append(write_binary_tensor(tensor))
        made["parameters"] = {"binary_data_size": len(behind[-1])}
    else:
        check_finite(name, tensor)
        made["data"] = write_json_tensor(tensor)
    return made
