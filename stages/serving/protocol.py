"""Protocol: a request of the Open Inference Protocol v2, and its answer, as both transports know them; the answer as HTTP has it.

https://github.com/open-inference/open-inference-protocol, and Triton's extensions for binary tensor data and classification
(``docs/protocol/extension_binary_data.md`` and ``extension_classification.md`` of its server). Requests are read in ``reader``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from attar.models.task import Array
from attar.stages.serving.errors import BadRequest, shown
from attar.stages.serving.tensors import datatype, objects, to_bytes, to_json

if TYPE_CHECKING:
    from attar.stages.serving.ledger import Reservation
    from attar.stages.serving.observer import Times

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header that says how long the JSON is where bytes follow it."""
STATEFUL = ("sequence_id", "sequence_start", "sequence_end")
MEANT = {"binary_data_output", "timeout", "priority", *STATEFUL}
"""Parameters that are addressed to the server; any other comes back with the answer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for."""

    name: str
    binary: bool = False
    classes: int = 0
    """Where not 0, so many of the largest values, each as ``value:index:label``, instead of the tensor."""


@dataclass(slots=True)
class Infer:
    """A request that fits its model's signature."""

    inputs: dict[str, Array]
    """In the order of the signature."""
    rows: int
    wanted: Sequence[Wanted]
    """In the order in which they were asked for."""
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reservation: Reservation | None = None
    """Of the memory that it takes; None where nobody counts it."""
    times: Times | None = None
    """What the answer took, once there is one."""

    @property
    def timeout(self) -> float | None:
        """Seconds that the caller is ready to wait; None for as long as the server allows, which 0 asks for as well."""
        asked = self.parameters.get("timeout")
        return asked / 1e6 if asked else None


@dataclass(frozen=True, slots=True)
class Answer:
    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]
    binary: frozenset[str] | set[str]
    """The outputs to send as bytes."""
    parameters: Mapping[str, Any]


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raises BadRequest for one that the protocol does not have, or that is addressed to the server and cannot be followed."""
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout < 0):
        raise BadRequest(f"the parameter timeout is {shown(timeout)}, expected microseconds as an integer, 0 for none")
    if nested := [name for name, value in parameters.items() if isinstance(value, dict | list)]:
        raise BadRequest(
            f"the parameter {nested[0][:80]!r} is {shown(parameters[nested[0]])}, expected a text, number or boolean"
        )
    if any(parameters.get(name) for name in STATEFUL):
        raise BadRequest("sequences need a model that keeps state between requests; the models here keep none")


def answer(infer: Infer, found: Mapping[str, Array], model: str, version: str, labels: Sequence[str] = ()) -> Answer:
    """From all outputs of the model to what was asked for."""
    for each in infer.wanted:
        if each.classes:
            check_finite(each.name, found[each.name])
    made = {each.name: top(found[each.name], each.classes, labels) if each.classes else found[each.name] for each in infer.wanted}
    binary = {each.name for each in infer.wanted if each.binary}
    echoed = {name: value for name, value in infer.parameters.items() if name not in MEANT} if infer.parameters else {}
    return Answer(model, version, infer.id, made, binary, echoed)


def check_finite(name: str, values: Array) -> None:
    """Raises BadRequest for Inf and NaN in an output that is to be written as text. Values that are too large for the
    model lead there, so it is no fault of the server."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BadRequest(
            f"the output {name!r} holds Inf or NaN for these values, which JSON has no numbers for; send others, or ask for "
            "binary data"
        )


def top(values: Array, classes: int, labels: Sequence[str]) -> Array:
    """``[..., C]`` to BYTES ``[..., min(classes, C)]``, largest first. Raises BadRequest without an axis of classes."""
    if values.ndim == 0:
        raise BadRequest("classification needs an output with an axis of classes")
    best = np.argsort(-np.asarray(values, np.float64), axis=-1, kind="stable")[..., :classes]
    named = len(labels) == values.shape[-1]
    rows = zip(best.ravel().tolist(), np.take_along_axis(values, best, -1).ravel().tolist(), strict=True)
    return objects([f"{value:f}:{i}{':' + labels[i] if named else ''}".encode() for i, value in rows]).reshape(best.shape)


def write(answer: Answer) -> tuple[list[bytes | memoryview], int | None]:
    """The body in pieces, and the length of its JSON where bytes follow it."""
    behind: list[memoryview] = []
    described = [described_output(name, tensor, name in answer.binary, behind) for name, tensor in answer.outputs.items()]
    head: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version, "outputs": described}
    if answer.id:
        head["id"] = answer.id
    if answer.parameters:
        head["parameters"] = answer.parameters
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return ([text, *behind], len(text)) if behind else ([text], None)


def described_output(name: str, tensor: Array, binary: bool, behind: list[memoryview]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "datatype": datatype(tensor), "shape": tensor.shape}
    if binary:
        behind.append(to_bytes(tensor))
        made["parameters"] = {"binary_data_size": len(behind[-1])}
    else:
        check_finite(name, tensor)
        made["data"] = to_json(tensor)
    return made
