"""Reader: the body of an HTTP request for one model, to arrays that fit the model.

The body is JSON, or JSON and behind it the bytes of tensors, where a header says how long the JSON is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, TypeAlias

import orjson

from attar.models.task import Array
from attar.serving.core.errors import BadRequest, TooLarge, kind, shown
from attar.serving.core.settings import Settings
from attar.serving.protocol.json_data import Body, Cut, JsonArray, find_cut, loads, split_data
from attar.serving.protocol.request import HEADER_LENGTH, Infer, Wanted, check_parameters
from attar.serving.protocol.signature import BYTES, Declared, Signature
from attar.serving.protocol.sizes import count_elements, largest_body
from attar.serving.protocol.tensors import DTYPES, from_bytes, from_json

REMEMBERED, SHORT = 256, 2048
"""So many heads of up to so many bytes are understood once: a client says the same of its tensors again and again."""
DESCRIBED, BESIDE = ("name", "datatype", "shape", "parameters"), ("outputs", "parameters")
"""What the head says of an input, and beside the inputs; nobody reads more of it."""
NOTHING = memoryview(b"")
TEXT_OBJECT_BYTES = 64
"""Of a Python object around a text, and of the place that holds it."""
Reserve: TypeAlias = Callable[[int], None]
"""Told of bytes before they are spent; raises Refused where there are not as many."""
Parse: TypeAlias = Callable[[bytes], Mapping[str, Any]]
"""From a head to what JSON says in it."""


@dataclass(frozen=True, slots=True)
class Part:
    """An input as the JSON tells of it."""

    declared: Declared
    shape: Sequence[int]
    size: int | None
    """Bytes behind the JSON; None where ``data`` holds the content."""
    data: Any

    @property
    def item_bytes(self) -> int:
        """Of one element, beside what a text itself takes."""
        return DTYPES[self.declared.datatype].itemsize if self.declared.datatype != BYTES else TEXT_OBJECT_BYTES

    def content(self, data: Any, view: memoryview) -> Array:
        if self.size is not None:
            return from_bytes(self.declared, view, self.shape)
        if isinstance(data, JsonArray):
            return data.read(self.declared, self.shape)
        return from_json(self.declared, data, self.shape)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the JSON says, its head: the content of the tensors may stand apart from it."""

    parts: Sequence[Part]
    rows: int
    wanted: Sequence[Wanted]
    id: str
    parameters: Mapping[str, Any]


def unlimited(size: int) -> None:
    """For a body that is short, whose tensors are, too."""


class Reader:
    def __init__(self, signature: Signature, settings: Settings) -> None:
        self.signature, self.settings = signature, settings
        self.largest = largest_body(signature, settings)
        """Bytes of a request."""
        texts = [declared for declared in signature.inputs.values() if declared.datatype == BYTES]
        self.most_texts = max((count_elements(signature, declared, settings) for declared in texts), default=0)
        self._remembered = lru_cache(maxsize=REMEMBERED)(self.plan)

    def read(self, body: Body, length: int | None, reserve: Reserve = unlimited) -> Infer:
        """``length``: of the JSON; None where nothing is behind it. Raises BadRequest, TooLarge beyond the limits, and what
        ``reserve`` raises, which is told of the memory that tensors take beside the body."""
        if length is None:
            return self._read_json(body, NOTHING, reserve)
        if length > len(body):
            raise BadRequest(f"{HEADER_LENGTH} is {length}, the body has {len(body)} bytes")
        behind = memoryview(body)[length:]
        if length > SHORT:
            return self._read_json(body[:length], behind, reserve)
        plan = self.known(bytes(body[:length]), parsed)
        return self._filled(plan, [part.data for part in plan.parts], behind, plan.id)

    def _read_json(self, text: Body, behind: memoryview, reserve: Reserve) -> Infer:
        beside, cuts = split_data(text, self.most_texts)
        told = parsed(beside)
        named, inputs = identifier(told.get("id", "")), entries(told, "inputs", self.settings)
        head = {"inputs": [chosen(entry, DESCRIBED) for entry in inputs], **chosen(told, BESIDE)}
        plan, data = self._planned(head), restored(inputs, cuts)
        if reserve is not unlimited:
            reserve(sum(prod(part.shape) * part.item_bytes for part in plan.parts if part.size is None))
        return self._filled(plan, data, behind, named)

    def _planned(self, told: Mapping[str, Any]) -> Plan:
        try:
            head = orjson.dumps(told)
        except orjson.JSONEncodeError:  # more nesting than is written, though not more than is read
            return self.understood(told)
        return self.known(head, parsed) if len(head) <= SHORT else self.understood(told)

    def known(self, head: bytes, parse: Parse) -> Plan:
        """As ``plan``; a short head is understood once."""
        return (self._remembered if len(head) <= SHORT else self.plan)(head, parse)

    def plan(self, head: bytes, parse: Parse) -> Plan:
        """The head, checked against the signature; all but the content of its tensors."""
        return self.understood(parse(head))

    def understood(self, told: Mapping[str, Any]) -> Plan:
        """What the JSON holds, or what another transport says in the same words."""
        parameters = told.get("parameters") or {}
        check_parameters(parameters)
        parts = [self._part(each) for each in entries(told, "inputs", self.settings)]
        shapes = {part.declared.name: part.shape for part in parts}
        if len(shapes) < len(parts):
            raise BadRequest("an input is there twice")
        return Plan(
            parts, self.signature.rows(shapes), self._wanted(told, parameters), identifier(told.get("id", "")), parameters
        )

    def _filled(self, plan: Plan, data: Sequence[Any], behind: memoryview, named: str) -> Infer:
        made, start = {}, 0
        for part, given in zip(plan.parts, data, strict=True):
            size = part.size or 0
            if start + size > len(behind):
                raise BadRequest(f"{part.declared.name!r} has a binary_data_size of {size}, {len(behind) - start} bytes are left")
            made[part.declared.name] = part.content(given, behind[start : start + size])
            start += size
        if start != len(behind):
            raise BadRequest(f"{len(behind) - start} bytes are left over behind the tensors; give each its binary_data_size")
        return self.infer(plan, made, named)

    def infer(self, plan: Plan, made: dict[str, Array], named: str) -> Infer:
        """``made``: the content of each part of the plan; ``named``: the id of the request. Raises BadRequest for values that the
        model does not take."""
        self.signature.check_values(made)
        if len(made) > 1:
            made = {name: made[name] for name in self.signature.inputs}
        return Infer(made, plan.rows, plan.wanted, named, plan.parameters)

    def _part(self, entry: Mapping[str, Any]) -> Part:
        declared = self.signature.input(entry.get("name"))
        if entry.get("datatype") != declared.datatype:
            raise BadRequest(f"{declared.name!r} has the datatype {shown(entry.get('datatype'))}, expected {declared.datatype}")
        size = own(entry).get("binary_data_size")
        if size is not None and (type(size) is not int or size < 0):
            raise BadRequest(f"{declared.name!r} has a binary_data_size of {shown(size)}, expected a number of bytes")
        return Part(declared, self._shape(declared, entry.get("shape")), size, entry.get("data"))

    def _shape(self, declared: Declared, given: Any) -> list[int]:
        if type(given) is not list or not all(type(size) is int and size >= 0 for size in given):
            told = f"[{', '.join(map(shown, given[:8]))}]" if type(given) is list else shown(given)
            raise BadRequest(f"the shape of {declared.name!r} is {told}, expected a list of sizes")
        if len(given) != len(declared.axes):
            raise BadRequest(f"{declared.name!r} has {len(given)} axes, expected {len(declared.axes)}")
        if prod(given) > self.settings.max_elements:
            raise TooLarge(f"{declared.name!r} has {prod(given)} elements, allowed are {self.settings.max_elements}")
        return given

    def _wanted(self, told: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Wanted]:
        """All outputs where none is named."""
        binary = flag(parameters.get("binary_data_output", False), "binary_data_output")
        if not told.get("outputs"):
            return [Wanted(name, binary) for name in self.signature.outputs]
        made = [self._output(each, binary) for each in entries(told, "outputs", self.settings)]
        if len({each.name for each in made}) < len(made):
            raise BadRequest("an output is asked for twice")
        return made

    def _output(self, entry: Mapping[str, Any], binary: bool) -> Wanted:
        name, asked = self.signature.output(entry.get("name")).name, own(entry)
        classes = asked.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise BadRequest(f"classification is {shown(classes)}, expected how many classes")
        return Wanted(name, flag(asked.get("binary_data", binary), "binary_data"), classes)


def restored(inputs: Sequence[Mapping[str, Any]], cuts: Sequence[Cut]) -> list[Any]:
    """The data of each input, as it stood in the body. Raises BadRequest where some of it belongs to none."""
    data = [entry.get("data") for entry in inputs]
    found = [find_cut(each, cuts) for each in data]
    if len(cuts) != sum(cut is not None for cut in found):
        raise BadRequest("data is there twice, or where no input is")
    return [each if cut is None else cut for each, cut in zip(data, found, strict=True)]


def parsed(text: Body) -> dict[str, Any]:
    """A JSON object. Raises BadRequest for anything else."""
    made = loads(text)
    if type(made) is not dict:
        raise BadRequest(f"the body is {kind(made)}, expected an object")
    if type(made.get("parameters") or {}) is not dict:
        raise BadRequest(f"parameters is {kind(made['parameters'])}, expected an object")
    return made


def chosen(told: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: told[name] for name in names if name in told}


def identifier(given: Any) -> str:
    if type(given) is not str:
        raise BadRequest(f"the id is {kind(given)}, expected a string")
    return given


def entries(told: Mapping[str, Any], name: str, settings: Settings) -> list[dict[str, Any]]:
    found = told.get(name)
    if type(found) is not list or not all(type(each) is dict for each in found):
        raise BadRequest(f"{name} is {kind(found)}, expected a list of objects")
    if len(found) > settings.max_tensors:
        raise TooLarge(f"{len(found)} {name} are more than the {settings.max_tensors} that are allowed")
    return found


def own(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one tensor."""
    found = entry.get("parameters") or {}
    if type(found) is not dict:
        raise BadRequest(f"the parameters of {shown(entry.get('name'))!r} are {kind(found)}, expected an object")
    if "shared_memory_region" in found:
        raise BadRequest("tensors in shared memory are not taken; send their bytes")
    return found


def flag(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise BadRequest(f"{name} is {kind(value)}, expected true or false")
    return value
