"""ModelInfer over gRPC: a message to a request that fits the model, an answer to a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from attar.models.task import Array
from attar.serving.core.errors import BadRequestError, TooLargeError
from attar.serving.core.ledger import Reservation
from attar.serving.grpc.calls import decode_message
from attar.serving.grpc.contents import read_contents
from attar.serving.grpc.messages import ModelInferRequest, ModelInferResponse
from attar.serving.grpc.wire import split_message
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.reader import InferenceReader, InputDescription
from attar.serving.protocol.request import InferenceRequest
from attar.serving.protocol.response import InferenceResponse
from attar.serving.protocol.tensors import (
    find_array_datatype,
    read_binary_tensor,
    write_binary_tensor,
)

QUICK_BYTES = 2**22
"""Up to this size the raw bytes of tensors are read on the event loop."""


@dataclass(frozen=True, slots=True)
class InferMessage:
    """A ModelInferRequest."""

    request: Any
    """Protobuf's message, without what follows."""
    raw: Sequence[bytes | memoryview]
    contents: Sequence[Any]
    """The typed contents of each input."""
    size: int
    reservation: Reservation
    arrived: int
    """When it came, by ``perf_counter_ns``."""


def decode_infer_message(sent: Any, reservation: Reservation, arrived: int) -> InferMessage:
    """Decode a message; one that is long is split before. Raises RequestError."""
    if isinstance(sent, bytes) and len(sent) > SHORT_BYTES:
        split = split_message(sent)
        request = decode_message(ModelInferRequest, bytes(split.head))
        return InferMessage(request, split.raw, split.contents, len(sent), reservation, arrived)
    request = decode_message(ModelInferRequest, sent)
    raw, contents = list(request.raw_input_contents), [each.contents for each in request.inputs]
    request.ClearField("raw_input_contents")
    return InferMessage(request, raw, contents, len(sent), reservation, arrived)


def is_quick(message: InferMessage, reader: InferenceReader) -> bool:
    """Whether the tensors may be read on the event loop."""
    if message.size <= SHORT_BYTES:
        return True
    return bool(message.raw) and message.size <= QUICK_BYTES and not reader.most_texts


def read_request(reader: InferenceReader, message: InferMessage) -> InferenceRequest:
    """Read a message, which loses its id. Raises RequestError."""
    request, most = message.request, reader.settings.max_tensors
    if max(len(request.inputs), len(request.outputs)) > most:
        raise TooLargeError(f"more than the {most} inputs or outputs that are allowed")
    request_id = request.id
    request.ClearField("id")
    if message.raw:
        plan = reader.plan_cached(request.SerializeToString(), parse_head)
    else:
        plan = reader.check_head(describe_request(request))
        size = sum(prod(part.shape) * part.item_bytes for part in plan.parts)
        message.reservation.add(size)
    tensors = dict(read_tensors(plan.parts, message))
    return reader.build_request(plan, tensors, request_id, message.reservation)


def parse_head(head: bytes) -> dict[str, Any]:
    """``head``: a request without its tensors' content and its id."""
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


def read_tensors(
    parts: Sequence[InputDescription], message: InferMessage
) -> Iterator[tuple[str, Array]]:
    """Yield the arrays by name: views into the message's bytes where possible."""
    raw = message.raw
    if raw and len(raw) != len(parts):
        raise BadRequestError(
            f"there are {len(raw)} raw_input_contents for {len(parts)} inputs; send one each, "
            "or none"
        )
    for i, part in enumerate(parts):
        name, contents = part.spec.name, message.contents[i]
        if not raw:
            yield name, read_contents(part, contents)
            continue
        if contents if isinstance(contents, dict) else contents.ByteSize():
            raise BadRequestError(
                f"{name!r} has contents beside raw_input_contents; send one of them"
            )
        yield name, read_binary_tensor(part.spec, memoryview(raw[i]), part.shape)


def build_message(answer: InferenceResponse, given: Mapping[str, Any]) -> Any:
    """Return a ModelInferResponse; ``given``: the request's parameters, which are echoed."""
    outputs = answer.outputs
    message = ModelInferResponse(
        model_name=answer.model,
        model_version=answer.version,
        id=answer.id,
        outputs=[
            {"name": name, "datatype": find_array_datatype(tensor), "shape": tensor.shape}
            for name, tensor in outputs.items()
        ],
        raw_output_contents=[bytes(write_binary_tensor(tensor)) for tensor in outputs.values()],
    )
    for name in answer.parameters:
        message.parameters[name].CopyFrom(given[name])
    return message
