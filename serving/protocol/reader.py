"""Reads the body of an HTTP request for one model into arrays that fit the model.

The body is JSON; the bytes of tensors may follow it, and then a header gives the size of the JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, TypeAlias

import orjson

from attar.models.task import Array
from attar.models.tensors import TensorSpec
from attar.serving.core.errors import BadRequestError, TooLargeError, format_value
from attar.serving.core.ledger import Reservation
from attar.serving.core.settings import Settings
from attar.serving.protocol.json_checks import (
    check_data_once,
    check_entries,
    check_flag,
    check_id,
    check_tensor_parameters,
    parse_object,
    pick_keys,
)
from attar.serving.protocol.json_data import (
    SHORT_BYTES,
    DataArray,
    JsonArray,
    find_cut,
    split_data,
)
from attar.serving.protocol.json_numbers import Body
from attar.serving.protocol.request import (
    HEADER_LENGTH,
    InferenceRequest,
    OutputRequest,
    check_parameters,
)
from attar.serving.protocol.signature import BYTES, Signature, find_datatype
from attar.serving.protocol.sizes import count_elements, largest_body
from attar.serving.protocol.tensors import DTYPES, read_binary_tensor, read_json_tensor

REMEMBERED, SHORT = 256, 2048
"""Number and size of the heads that are remembered: a client describes its tensors in the same way
again and again."""
DESCRIBED, BESIDE = ("name", "datatype", "shape", "parameters"), ("outputs", "parameters")
"""Keys of the head that are read: of an input, and beside the inputs."""
NOTHING = memoryview(b"")
TEXT_OBJECT_BYTES = 64
"""Memory of a Python object around a text, and of the reference to it."""
CheckShapes: TypeAlias = Callable[[Mapping[str, Sequence[int]]], None]
"""Raises RequestError for shapes of inputs that cost too much."""
Parse: TypeAlias = Callable[[bytes], Mapping[str, Any]]
"""From the bytes of a head to its fields."""


@dataclass(frozen=True, slots=True)
class InputDescription:
    """An input as the JSON describes it."""

    spec: TensorSpec
    shape: Sequence[int]
    size: int | None
    """Bytes behind the JSON; None if ``data`` holds the content."""
    data: Any

    @property
    def item_bytes(self) -> int:
        """Return the memory of one element; of a text only that of the object around it."""
        return (
            DTYPES[find_datatype(self.spec)].itemsize
            if find_datatype(self.spec) != BYTES
            else TEXT_OBJECT_BYTES
        )

    def read_content(self, data: Any, view: memoryview, has_flags: bool) -> Array:
        if self.size is not None:
            return read_binary_tensor(self.spec, view, self.shape)
        if isinstance(data, JsonArray):
            return data.read(self.spec, self.shape)
        return read_json_tensor(self.spec, data, self.shape, has_flags)


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """A checked head: all of a request but the content of its tensors."""

    parts: Sequence[InputDescription]
    rows: int
    wanted: Sequence[OutputRequest]
    id: str
    parameters: Mapping[str, Any]


class InferenceReader:
    def __init__(
        self, signature: Signature, settings: Settings, check_shapes: CheckShapes | None = None
    ) -> None:
        """``check_shapes`` is called before any content of a tensor is read."""
        self.signature, self.settings = signature, settings
        self._check_shapes = check_shapes
        self.largest = largest_body(signature, settings)
        """Limit of the bytes of a request."""
        texts = [spec for spec in signature.inputs.values() if find_datatype(spec) == BYTES]
        self.most_texts = max(
            (count_elements(signature, spec, settings) for spec in texts), default=0
        )
        self._remembered = lru_cache(REMEMBERED)(lambda head, parse: self.check_head(parse(head)))

    def read(
        self, body: Body, length: int | None, reservation: Reservation | None = None
    ) -> InferenceRequest:
        """Return the request in a body, whose first ``length`` bytes (None: all) are JSON.

        Memory for the tensors is reserved before they are read. Raises RequestError.
        """
        if length is None:
            return self._read_json(body, NOTHING, reservation)
        if length > len(body):
            raise BadRequestError(f"{HEADER_LENGTH} is {length}, the body has {len(body)} bytes")
        behind = memoryview(body)[length:]
        if length > SHORT:
            return self._read_json(body[:length], behind, reservation)
        plan = self.plan_cached(bytes(body[:length]), parse_head)
        tensors = self._read_tensors(plan, [part.data for part in plan.parts], behind)
        return self.build_request(plan, tensors, plan.id, reservation)

    def _read_json(
        self, text: Body, behind: memoryview, reservation: Reservation | None
    ) -> InferenceRequest:
        beside, cuts = split_data(text, self.most_texts)
        told = parse_object(beside)
        named, inputs = check_id(told.get("id", "")), check_entries(told, "inputs", self.settings)
        head = {
            "inputs": [pick_keys(entry, DESCRIBED) for entry in inputs],
            **pick_keys(told, BESIDE),
        }
        plan, data = self._plan_long(head), restore_data(inputs, cuts)
        check_data_once(beside, sum("data" in entry for entry in inputs))
        if reservation and len(text) > SHORT_BYTES:  # the tensors of a short body are short, too
            parts = [part for part in plan.parts if part.size is None]
            reservation.add(sum(prod(part.shape) * part.item_bytes for part in parts))
        has_flags = b"true" in beside or b"false" in beside  # sooner found than by each value
        tensors = self._read_tensors(plan, data, behind, has_flags)
        return self.build_request(plan, tensors, named, reservation)

    def _plan_long(self, told: Mapping[str, Any]) -> RequestPlan:
        try:
            head = orjson.dumps(told)
        except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
            return self.check_head(told)
        return self.plan_cached(head, parse_object) if len(head) <= SHORT else self.check_head(told)

    def plan_cached(self, head: bytes, parse: Parse) -> RequestPlan:
        """Return the plan of a head; that of a short one is remembered."""
        if len(head) <= SHORT:
            return self._remembered(head, parse)
        return self.check_head(parse(head))

    def check_head(self, told: Mapping[str, Any]) -> RequestPlan:
        """Return the plan of a head, checked against the signature. Raises RequestError."""
        parameters = told.get("parameters") or {}
        check_parameters(parameters)
        parts = [self._read_input(each) for each in check_entries(told, "inputs", self.settings)]
        shapes = {part.spec.name: part.shape for part in parts}
        if len(shapes) < len(parts):
            raise BadRequestError("an input is there twice")
        rows = self.signature.count_rows(shapes)
        if self._check_shapes:
            self._check_shapes(shapes)
        return RequestPlan(
            parts,
            rows,
            self._read_outputs(told, parameters),
            check_id(told.get("id", "")),
            parameters,
        )

    def _read_tensors(
        self, plan: RequestPlan, data: Sequence[Any], behind: memoryview, has_flags: bool = True
    ) -> dict[str, Array]:
        made, start = {}, 0
        for part, given in zip(plan.parts, data, strict=True):
            size = part.size or 0
            if start + size > len(behind):
                raise BadRequestError(
                    f"{part.spec.name!r} has a binary_data_size of {size}, "
                    f"{len(behind) - start} bytes are left"
                )
            made[part.spec.name] = part.read_content(given, behind[start : start + size], has_flags)
            start += size
        if start != len(behind):
            raise BadRequestError(
                f"{len(behind) - start} bytes are left over behind the tensors; give each its "
                "binary_data_size"
            )
        return made

    def build_request(
        self,
        plan: RequestPlan,
        tensors: dict[str, Array],
        request_id: str,
        reservation: Reservation | None,
    ) -> InferenceRequest:
        """Raises BadRequestError for values that the model does not take."""
        self.signature.check_values(tensors)
        if len(tensors) > 1:
            tensors = {name: tensors[name] for name in self.signature.inputs}
        return InferenceRequest(
            tensors, plan.rows, plan.wanted, request_id, plan.parameters, reservation
        )

    def _read_input(self, entry: Mapping[str, Any]) -> InputDescription:
        spec = self.signature.find_input(entry.get("name"))
        if entry.get("datatype") != find_datatype(spec):
            raise BadRequestError(
                f"{spec.name!r} has the datatype {format_value(entry.get('datatype'))}, "
                f"expected {find_datatype(spec)}"
            )
        size = check_tensor_parameters(entry).get("binary_data_size")
        if size is not None and (type(size) is not int or size < 0):
            raise BadRequestError(
                f"{spec.name!r} has a binary_data_size of {format_value(size)}, expected "
                "a number of bytes"
            )
        return InputDescription(
            spec, self._check_shape(spec, entry.get("shape")), size, entry.get("data")
        )

    def _check_shape(self, spec: TensorSpec, given: Any) -> list[int]:
        if type(given) is not list or not all(type(size) is int and size >= 0 for size in given):
            told = (
                f"[{', '.join(map(format_value, given[:8]))}]"
                if type(given) is list
                else format_value(given)
            )
            raise BadRequestError(f"the shape of {spec.name!r} is {told}, expected a list of sizes")
        if len(given) != len(spec.axes):
            raise BadRequestError(f"{spec.name!r} has {len(given)} axes, expected {len(spec.axes)}")
        if prod(given) > self.settings.max_elements:
            raise TooLargeError(
                f"{spec.name!r} has {prod(given)} elements, allowed are "
                f"{self.settings.max_elements}"
            )
        return given

    def _read_outputs(
        self, told: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> list[OutputRequest]:
        """Return the outputs that are asked for: all where none is named."""
        binary = check_flag(parameters.get("binary_data_output", False), "binary_data_output")
        if not told.get("outputs"):
            return [OutputRequest(name, binary) for name in self.signature.outputs]
        made = [
            self._read_output(each, binary)
            for each in check_entries(told, "outputs", self.settings)
        ]
        if len({each.name for each in made}) < len(made):
            raise BadRequestError("an output is asked for twice")
        return made

    def _read_output(self, entry: Mapping[str, Any], binary: bool) -> OutputRequest:
        name, asked = (
            self.signature.find_output(entry.get("name")).name,
            check_tensor_parameters(entry),
        )
        classes = asked.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise BadRequestError(
                f"classification is {format_value(classes)}, expected how many classes"
            )
        return OutputRequest(
            name, check_flag(asked.get("binary_data", binary), "binary_data"), classes
        )


def parse_head(head: bytes) -> dict[str, Any]:
    told = parse_object(head)
    check_data_once(head, 0)
    return told


def restore_data(inputs: Sequence[Mapping[str, Any]], cuts: Sequence[DataArray]) -> list[Any]:
    """Return the data of each input. Raises BadRequestError if an array belongs to no input."""
    data = [entry.get("data") for entry in inputs]
    found = [find_cut(each, cuts) for each in data]
    if len(cuts) != sum(cut is not None for cut in found):
        raise BadRequestError("data is there twice, or where no input is")
    return [each if cut is None else cut for each, cut in zip(data, found, strict=True)]
