"""Sizes: how long the largest request of a model is, from what its signature takes."""

from __future__ import annotations

from math import prod

from attar.models.tensors import TensorSpec
from attar.serving.core.settings import Settings
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.signature import BYTES, Signature, find_datatype, is_text

FLOAT_BYTES = 26
"""Size of the longest float64, -2.2250738585072014e-308, with comma and space. Clients write a
float32 so, too."""
JSON_BYTES = {
    "BOOL": 7,
    "INT8": 6,
    "INT16": 8,
    "INT32": 13,
    "INT64": 22,
    "UINT8": 5,
    "UINT16": 7,
    "UINT32": 12,
    "UINT64": 22,
    **dict.fromkeys(("FP16", "FP32", "FP64"), FLOAT_BYTES),
}
"""Size of one value in JSON, with comma and space."""
PROTOBUF_BYTES = {
    "BOOL": 1,
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64", "UINT64"), 10),
    "UINT8": 2,
    "UINT16": 3,
    "UINT32": 5,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Size of one value in protobuf; a negative integer always takes 10 bytes."""
BRACKET_BYTES = 4
"""Size of the nesting for each row of an axis: two brackets, comma and space."""
EACH_TEXT, EACH_FILE, ALL_BYTES = 2**16, 2**24, 2**26
"""Limits of BYTES, whose sizes no signature gives: of one text, of one file, and of all in a
request."""


def count_elements(signature: Signature, spec: TensorSpec, settings: Settings) -> int:
    """Return the largest number of elements in a request."""
    sizes = [size for size in signature.largest_shape(spec) if size is not None]
    known = prod(sizes)
    return (
        min(known, settings.max_elements) if len(sizes) == len(spec.axes) else settings.max_elements
    )


def largest_message(signature: Signature, settings: Settings) -> int:
    """Return the bytes of the longest request over gRPC."""
    size = SHORT_BYTES
    for spec in signature.inputs.values():
        bytes_each = PROTOBUF_BYTES.get(find_datatype(spec))
        if bytes_each is None:
            size += largest_input(signature, spec, settings)
        else:
            size += bytes_each * count_elements(signature, spec, settings)
    return size


def largest_input(signature: Signature, spec: TensorSpec, settings: Settings) -> int:
    """Return the bytes of the longest tensor in JSON."""
    elements = count_elements(signature, spec, settings)
    if find_datatype(spec) == BYTES:
        return min(elements * (EACH_TEXT if is_text(spec) else EACH_FILE), ALL_BYTES)
    sizes = [
        settings.max_elements if size is None else size for size in signature.largest_shape(spec)
    ]
    rows = sum(min(prod(sizes[:axis]), elements) for axis in range(1, len(sizes)))
    return elements * JSON_BYTES[find_datatype(spec)] + (rows + 1) * BRACKET_BYTES


def largest_body(signature: Signature, settings: Settings) -> int:
    """Return the bytes of the longest request, in JSON, which is longer than any other form;
    ``max_body`` where that is set."""
    if settings.max_body is not None:
        return settings.max_body
    return SHORT_BYTES + sum(
        largest_input(signature, spec, settings) for spec in signature.inputs.values()
    )
