"""Messages: protobuf's classes for the ``.proto`` files beside it, made from the files themselves when this module is imported.

They live in a pool of their own, so that a client of the same protocol, whose names are the same, fits into the same process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

FILE, HEALTH_FILE = "open_inference.proto", "health.proto"
STATEMENT = re.compile(
    r"(?P<kind>message|enum|oneof|service) (?P<opened>\w+) \{"
    r"|(?P<closed>\})"
    r"|rpc (?P<method>\w+)\((?P<asks>stream )?(?P<request>\w+)\) returns \((?P<tells>stream )?(?P<response>\w+)\);"
    r"|(?P<key>map<string, )?(?P<many>repeated )?(?P<type>\w+)>? (?P<field>\w+) = (?P<number>\d+);"
    r"|(?P<value>\w+) = (?P<valued>\d+);"
    r"|package (?P<package>[\w.]+);"
)
"""One line of the few kinds that the files are written in."""


class Scope:
    """What is open between braces: the descriptor that is being filled, and which of its oneofs."""

    def __init__(self, descriptor: Any, choice: int | None = None) -> None:
        self.descriptor, self.choice = descriptor, choice

    def open(self, kind: str, name: str) -> Scope:
        made = self.descriptor
        if kind == "oneof":
            made.oneof_decl.add(name=name)
            return Scope(made, len(made.oneof_decl) - 1)
        inside = isinstance(made, DescriptorProto)
        nested = {"message": "nested_type" if inside else "message_type", "enum": "enum_type", "service": "service"}
        return Scope(getattr(made, nested[kind]).add(name=name))

    def field(self, name: str, number: int, type_name: str, repeated: bool) -> None:
        made = self.descriptor.field.add(name=name, number=number, label="LABEL_REPEATED" if repeated else "LABEL_OPTIONAL")
        scalar = f"TYPE_{type_name.upper()}"
        if scalar in FieldDescriptorProto.Type.keys():  # noqa: SIM118  # an enum's wrapper, which is no mapping
            made.type = FieldDescriptorProto.Type.Value(scalar)
        else:
            made.type_name = type_name
        if self.choice is not None:
            made.oneof_index = self.choice

    def map(self, name: str, number: int, type_name: str) -> None:
        """A map is a repeated message of keys and values."""
        entry = self.descriptor.nested_type.add(name=f"{name.title().replace('_', '')}Entry", options={"map_entry": True})
        Scope(entry).field("key", 1, "string", repeated=False)
        Scope(entry).field("value", 2, type_name, repeated=False)
        self.field(name, number, entry.name, repeated=True)

    def method(self, name: str, request: str, response: str, asks: bool, tells: bool) -> None:
        """``asks``, ``tells``: whether the request, the response is a stream."""
        self.descriptor.method.add(
            name=name, input_type=request, output_type=response, client_streaming=asks, server_streaming=tells
        )


def described(name: str, text: str) -> Any:
    """The file's descriptor. Raises ValueError for more of the language than it is written in."""
    scopes = [Scope(FileDescriptorProto(name=name, syntax="proto3"))]
    for said in statements(name, text):
        scope = scopes[-1]
        if said["opened"]:
            scopes.append(scope.open(said["kind"], said["opened"]))
        elif said["closed"]:
            scopes.pop()
        elif said["method"]:
            scope.method(said["method"], said["request"], said["response"], bool(said["asks"]), bool(said["tells"]))
        elif said["package"]:
            scope.descriptor.package = said["package"]
        elif said["key"]:
            scope.map(said["field"], int(said["number"]), said["type"])
        elif said["field"]:
            scope.field(said["field"], int(said["number"]), said["type"], bool(said["many"]))
        else:
            scope.descriptor.value.add(name=said["value"], number=int(said["valued"]))
    return scopes[0].descriptor


def statements(name: str, text: str) -> Iterator[re.Match[str]]:
    for line in text.splitlines():
        said = line.partition("//")[0].strip()
        if not said or said == 'syntax = "proto3";':
            continue
        found = STATEMENT.fullmatch(said)
        if found is None:
            raise ValueError(f"{name}: {said!r} is not read; write it as the other lines are written")
        yield found


def message(name: str) -> Any:
    return GetMessageClass(POOL.FindMessageTypeByName(name))


POOL = DescriptorPool()
for each in (FILE, HEALTH_FILE):
    POOL.Add(described(each, (files(__package__) / each).read_text(encoding="utf-8")))
SERVICE = POOL.FindServiceByName("inference.GRPCInferenceService")
HEALTH = POOL.FindServiceByName("grpc.health.v1.Health")
ModelInferRequest = message("inference.ModelInferRequest")
ModelInferResponse = message("inference.ModelInferResponse")
ModelStreamInferResponse = message("inference.ModelStreamInferResponse")
HealthCheckRequest = message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = message("grpc.health.v1.HealthCheckResponse")
