"""ModelInfer as gRPC has it: a request to arrays that fit the model, an answer to a response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from attar.models.task import Array
from attar.serving.core.errors import BadRequestError, TooLargeError
from attar.serving.grpc.messages import ModelInferRequest, ModelInferResponse
from attar.serving.protocol.reader import InputDescription, Reader
from attar.serving.protocol.request import InferenceRequest
from attar.serving.protocol.response import InferenceResponse
from attar.serving.protocol.signature import BYTES, find_datatype, is_text
from attar.serving.protocol.sizes import count_elements
from attar.serving.protocol.tensors import (
    DTYPES,
    find_array_datatype,
    make_object_array,
    read_binary_tensor,
    write_binary_tensor,
)

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Where a datatype's values stand that are not sent as bytes. The protocol has no place for
FP16."""
INTEGERS = {"bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents"}
"""Whose values have a byte or more in a message, and up to eight once it is decoded."""
PIECE = 2**14
"""Values that become Python objects at once."""


def read_request(reader: Reader, request: Any) -> InferenceRequest:
    """Read a ModelInferRequest, which loses its bytes and its id.

    Raises BadRequestError, and TooLargeError beyond the limits.
    """
    most = reader.settings.max_tensors
    if max(len(request.inputs), len(request.outputs)) > most:
        raise TooLargeError(f"more than the {most} inputs or outputs that are allowed")
    raw, named = list(request.raw_input_contents), request.id
    for apart in ("raw_input_contents", "id"):
        request.ClearField(apart)
    plan = (
        reader.plan_cached(request.SerializeToString(), parse_head)
        if raw
        else reader.check_head(describe_request(request))
    )
    return reader.build_request(plan, dict(read_contents(plan.parts, request, raw)), named)


def count_integers(reader: Reader) -> int:
    """Return how many integers and flags the contents of a request may have."""
    signature, settings = reader.signature, reader.settings
    return sum(
        count_elements(signature, spec, settings)
        for spec in signature.inputs.values()
        if CONTENTS.get(find_datatype(spec)) in INTEGERS
    )


def parse_head(head: bytes) -> dict[str, Any]:
    """``head``: a request without its bytes and its id."""
    return describe_request(ModelInferRequest.FromString(head))


def describe_request(request: Any) -> dict[str, Any]:
    """Return the request in the words that the reader knows from JSON."""
    return {
        "parameters": read_parameters(request.parameters),
        "inputs": [
            describe_tensor(each) | {"datatype": each.datatype, "shape": list(each.shape)}
            for each in request.inputs
        ],
        "outputs": [describe_tensor(each) for each in request.outputs],
    }


def describe_tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "parameters": read_parameters(tensor.parameters)}


def read_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(each, each.WhichOneof("parameter_choice") or "string_param")
        for name, each in given.items()
    }


def read_contents(
    parts: Sequence[InputDescription], request: Any, raw: Sequence[bytes]
) -> Iterator[tuple[str, Array]]:
    """Yield the arrays by name: views into the message's bytes where it has them."""
    if raw and len(raw) != len(parts):
        raise BadRequestError(
            f"there are {len(raw)} raw_input_contents for {len(parts)} inputs; send one each, "
            "or none"
        )
    for i, part in enumerate(parts):
        name, given = part.spec.name, request.inputs[i]
        if raw and given.HasField("contents"):
            raise BadRequestError(
                f"{name!r} has contents beside raw_input_contents; send one of them"
            )
        yield (
            name,
            read_binary_tensor(part.spec, memoryview(raw[i]), part.shape)
            if raw
            else read_typed_contents(part, given.contents),
        )


def read_typed_contents(part: InputDescription, given: Any) -> Array:
    """Read an InferTensorContents.

    Raises BadRequestError for values of another type, or not as many as the shape says.
    """
    spec, shape = part.spec, part.shape
    field = CONTENTS.get(find_datatype(spec))
    if field is None:
        raise BadRequestError(
            f"{spec.name!r} is {find_datatype(spec)}, which has no contents in gRPC; send "
            "raw_input_contents"
        )
    values = getattr(given, field)
    if len(values) != prod(shape):
        raise BadRequestError(
            f"{spec.name!r} has {len(values)} {field}, its shape {list(shape)} asks for "
            f"{prod(shape)}"
        )
    try:
        if find_datatype(spec) == BYTES:
            made = make_object_array(
                [each.decode() for each in values] if is_text(spec) else list(values)
            )
        else:
            made = np.empty(len(values), DTYPES[find_datatype(spec)])
            for start in range(
                0, len(values), PIECE
            ):  # a list of all would take ten times the memory
                made[start : start + PIECE] = np.array(values[start : start + PIECE], made.dtype)
    except (OverflowError, UnicodeDecodeError) as error:
        raise BadRequestError(
            f"{spec.name!r} holds what is no {find_datatype(spec)}: {error}"
        ) from error
    return made.reshape(shape)


def build_message(answer: InferenceResponse, given: Mapping[str, Any]) -> Any:
    """Return a ModelInferResponse, its tensors as bytes; ``given``: the request's parameters, to
    echo."""
    made = ModelInferResponse(
        model_name=answer.model,
        model_version=answer.version,
        id=answer.id,
        outputs=[
            {"name": name, "datatype": find_array_datatype(tensor), "shape": tensor.shape}
            for name, tensor in answer.outputs.items()
        ],
        raw_output_contents=[
            bytes(write_binary_tensor(tensor)) for tensor in answer.outputs.values()
        ],
    )
    for name in answer.parameters:
        made.parameters[name].CopyFrom(given[name])
    return made
