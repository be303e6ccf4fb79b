"""Protocol: a request of the Open Inference Protocol v2 to arrays, and arrays to its answer; pure functions.

The body is JSON, or JSON and behind it the bytes of tensors (the binary tensor data extension), where the header
``Inference-Header-Content-Length`` says how long the JSON is.
https://github.com/open-inference/open-inference-protocol and Triton's ``protocol/extension_binary_data.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import orjson

from attar.models.task import Array
from attar.stages.serving.errors import BadRequest, TooLarge
from attar.stages.serving.settings import Settings
from attar.stages.serving.signature import BYTES, Declared, Signature
from attar.stages.serving.tensors import datatype, from_bytes, from_json, objects, to_bytes, to_json

HEADER_LENGTH = "Inference-Header-Content-Length"
STATEFUL = ("sequence_id", "sequence_start", "sequence_end")
MEANT = {"binary_data_output", "timeout", "priority", *STATEFUL}
"""Parameters that are addressed to the server; any other comes back with the answer."""
OPTIONS = orjson.OPT_SERIALIZE_NUMPY


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
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def timeout(self) -> float | None:
        """Seconds that the caller is ready to wait."""
        asked = self.parameters.get("timeout")
        return None if asked is None else asked / 1e6


@dataclass(frozen=True, slots=True)
class Answer:
    """``outputs`` in the order in which they were asked for."""

    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]
    binary: frozenset[str] = frozenset()
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read(body: bytes, length: int | None, signature: Signature, settings: Settings) -> Infer:
    """``length``: of the JSON; None where there is nothing behind it. Raises BadRequest, and TooLarge beyond the limits."""
    if length is not None and not 0 <= length <= len(body):
        raise BadRequest(f"{HEADER_LENGTH} is {length}, the body has {len(body)} bytes")
    view = memoryview(body)
    head = parsed(view[:length])
    tensors, behind = body_tensors(head, view[len(body) if length is None else length :], signature, settings)
    if len(behind):
        raise BadRequest(f"{len(behind)} bytes are left over behind the tensors; give each its binary_data_size")
    parameters = head.get("parameters") or {}
    return request(tensors, outputs(head, parameters, signature, settings), head.get("id", ""), parameters, signature)


def request(
    tensors: Mapping[str, Array], wanted: Sequence[Wanted], identifier: Any, parameters: Mapping[str, Any], signature: Signature
) -> Infer:
    """What both transports end in."""
    if type(identifier) is not str:
        raise BadRequest(f"the id is {kind(identifier)}, expected a string")
    check_parameters(parameters)
    rows = signature.rows({name: tensor.shape for name, tensor in tensors.items()})
    return Infer({name: tensors[name] for name in signature.inputs}, rows, wanted, identifier, parameters)


def check_parameters(parameters: Mapping[str, Any]) -> None:
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout <= 0):
        raise BadRequest(f"the parameter timeout is {str(timeout)[:40]}, expected microseconds as an integer over 0")
    if any(parameters.get(name) for name in STATEFUL):
        raise BadRequest("sequences need a model that keeps state between requests; the models here keep none")


def parsed(text: memoryview) -> dict[str, Any]:
    try:
        made = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is no JSON: {error}") from error
    if type(made) is not dict:
        raise BadRequest(f"the body is {kind(made)}, expected an object with inputs")
    if type(made.get("parameters", {})) is not dict:
        raise BadRequest(f"parameters is {kind(made['parameters'])}, expected an object")
    return made


def body_tensors(
    head: Mapping[str, Any], behind: memoryview, signature: Signature, settings: Settings
) -> tuple[dict[str, Array], memoryview]:
    """The inputs by name, and what is left of the bytes behind the JSON."""
    made: dict[str, Array] = {}
    for each in entries(head, "inputs", settings):
        declared = signature.input(each.get("name"))
        if declared.name in made:
            raise BadRequest(f"the input {declared.name!r} is there twice")
        check_datatype(declared, each.get("datatype"))
        shape = shape_of(declared, each.get("shape"), settings)
        size = own(each).get("binary_data_size")
        if size is None:
            made[declared.name] = from_json(declared, each.get("data"), shape)
            continue
        if type(size) is not int or not 0 <= size <= len(behind):
            raise BadRequest(f"{declared.name!r} has a binary_data_size of {str(size)[:40]}, there are {len(behind)} bytes left")
        made[declared.name] = from_bytes(declared, behind[:size], shape)
        behind = behind[size:]
    return made, behind


def entries(head: Mapping[str, Any], name: str, settings: Settings) -> list[dict[str, Any]]:
    found = head.get(name)
    if type(found) is not list or not all(type(each) is dict for each in found):
        raise BadRequest(f"{name} is {kind(found)}, expected a list of objects")
    if len(found) > settings.max_tensors:
        raise TooLarge(f"{len(found)} {name} are more than the {settings.max_tensors} that are allowed")
    return found


def own(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one tensor."""
    found = entry.get("parameters")
    if found is None:
        return {}
    if type(found) is not dict:
        raise BadRequest(f"the parameters of {str(entry.get('name'))[:80]!r} are {kind(found)}, expected an object")
    if "shared_memory_region" in found:
        raise BadRequest("tensors in shared memory are not taken; send their bytes")
    return found


def check_datatype(declared: Declared, given: Any) -> None:
    if given != declared.datatype:
        raise BadRequest(f"{declared.name!r} has the datatype {str(given)[:40]}, expected {declared.datatype}")


def shape_of(declared: Declared, given: Any, settings: Settings) -> list[int]:
    """Of as many axes as declared, and of no more elements than allowed."""
    if type(given) is not list or not all(type(size) is int and size >= 0 for size in given):
        raise BadRequest(f"the shape of {declared.name!r} is {str(given)[:80]}, expected a list of sizes")
    if len(given) != len(declared.axes):
        raise BadRequest(f"{declared.name!r} has {len(given)} axes, expected {len(declared.axes)}")
    if prod(given) > settings.max_elements:
        raise TooLarge(f"{declared.name!r} has {prod(given)} elements, allowed are {settings.max_elements}")
    return given


def outputs(head: Mapping[str, Any], parameters: Mapping[str, Any], signature: Signature, settings: Settings) -> list[Wanted]:
    """All of them where none is named."""
    binary = flag(parameters.get("binary_data_output", False), "binary_data_output")
    if not head.get("outputs"):
        return [Wanted(name, binary) for name in signature.outputs]
    made: dict[str, Wanted] = {}
    for each in entries(head, "outputs", settings):
        name, asked = signature.output(each.get("name")).name, own(each)
        if name in made:
            raise BadRequest(f"the output {name!r} is asked for twice")
        classes = asked.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise BadRequest(f"classification is {str(classes)[:40]}, expected how many classes")
        made[name] = Wanted(name, flag(asked.get("binary_data", binary), "binary_data"), classes)
    return list(made.values())


def flag(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise BadRequest(f"{name} is {kind(value)}, expected true or false")
    return value


def kind(value: Any) -> str:
    """What JSON calls it."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "missing"}
    return names.get(type(value), "a number")


def answer(infer: Infer, found: Mapping[str, Array], model: str, version: str, labels: Sequence[str] = ()) -> Answer:
    """From all outputs of the model to what was asked for."""
    made = {each.name: top(found[each.name], each.classes, labels) if each.classes else found[each.name] for each in infer.wanted}
    binary = frozenset(each.name for each in infer.wanted if each.binary)
    echoed = {name: value for name, value in infer.parameters.items() if name not in MEANT} if infer.parameters else {}
    return Answer(model, version, infer.id, made, binary, echoed)


def top(values: Array, classes: int, labels: Sequence[str]) -> Array:
    """``[..., C]`` to BYTES ``[..., min(classes, C)]``, largest first: Triton's classification extension."""
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
    text = orjson.dumps(head, option=OPTIONS)
    return ([text, *behind], len(text)) if behind else ([text], None)


def described_output(name: str, tensor: Array, binary: bool, behind: list[memoryview]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "datatype": datatype(tensor), "shape": tensor.shape}
    if binary:
        behind.append(to_bytes(tensor))
        return {**made, "parameters": {"binary_data_size": len(behind[-1])}}
    return {**made, "data": to_json(tensor)}


__all__ = ["BYTES", "HEADER_LENGTH", "Answer", "Infer", "Wanted", "answer", "read", "request", "write"]
