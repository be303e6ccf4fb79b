"""OpenAPI: the HTTP interface of what is served right now, for programs and people that read such
descriptions.

https://spec.openapis.org/oas/v3.1.1; its schemas are JSON Schema 2020-12.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from attar.models.tensors import TensorSpec
from attar.pipeline.core.version import VERSION
from attar.serving.core.authenticator import OPEN
from attar.serving.core.errors import (
    BadRequestError,
    BusyError,
    DeadlineError,
    EngineFailedError,
    ForbiddenError,
    HeaderTooLargeError,
    NotFoundError,
    RequestError,
    TooLargeError,
    TooSlowError,
    UnauthorizedError,
)
from attar.serving.core.settings import Settings
from attar.serving.http.schemas import (
    ANSWER,
    BEHIND,
    ERROR,
    LIVE,
    MANY,
    PARAMETERS,
    PER_OUTPUT,
    READY,
    Schema,
)
from attar.serving.models.model import ServedModel
from attar.serving.protocol.request import HEADER_LENGTH
from attar.serving.protocol.signature import Signature, find_datatype

ANYWHERE = (
    BadRequestError,
    UnauthorizedError,
    ForbiddenError,
    TooSlowError,
    TooLargeError,
    HeaderTooLargeError,
    EngineFailedError,
    BusyError,
)
"""Errors that any request may get."""
REFUSALS = (*ANYWHERE, NotFoundError, DeadlineError)
NAMED = {"404": {"$ref": "#/components/responses/NotFound"}}


def build_document(models: Iterable[ServedModel], settings: Settings) -> Schema:
    """Return the document: every model has its own paths, with the tensors that it takes."""
    served = {model.name: model for model in models}
    paths = {
        **describe_server_paths(settings),
        **{
            path: made
            for model in served.values()
            for path, made in describe_model_paths(model).items()
        },
    }
    if settings.token_file:
        for path in paths.keys() & {each.decode() for each in OPEN}:
            paths[path]["get"]["security"] = []
    told = as_json({"$ref": "#/components/schemas/Error"})
    refusals = {
        response_name(each): {"description": str(each.__doc__), "content": told}
        for each in REFUSALS
    }
    components: Schema = {"schemas": {"Error": ERROR, "Answer": ANSWER}, "responses": refusals}
    if settings.token_file or settings.control_token_file:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.1",
        "info": {"title": "attar", "version": VERSION, "description": "Open Inference Protocol v2"},
        "paths": paths,
        "components": components,
        **({"security": [{"token": []}]} if settings.token_file else {}),
    }


def response_name(error: type[RequestError]) -> str:
    """Return the name of an error's response, such as ``NotFound``."""
    return error.cause.title().replace("_", "")


def describe_server_paths(settings: Settings) -> dict[str, Schema]:
    ready = as_json({"type": "object", "properties": {"ready": {"type": "boolean"}}})
    return {
        "/v2/health/live": {
            "get": describe_operation("Whether the server lives", LIVE, more=describe_unready(LIVE))
        },
        "/v2/health/ready": {
            "get": describe_operation(
                "Whether everything that is served answers", READY, more=describe_unready(READY)
            )
        },
        "/v2": {
            "get": describe_operation(
                "The server's name, version and extensions", {"type": "object"}
            )
        },
        "/v2/models/stats": {
            "get": describe_operation("Statistics of every model", {"type": "object"})
        },
        "/v2/repository/index": {
            "post": describe_operation(
                "Every model, loaded or not", MANY, requestBody={"content": ready}
            )
        },
        **(describe_control_paths(settings) if settings.model_control else {}),
        "/metrics": {
            "get": describe_operation(
                "What Prometheus reads", {"type": "string"}, as_type="text/plain"
            )
        },
        "/openapi.json": {"get": describe_operation("This description", {"type": "object"})},
    }


def describe_control_paths(settings: Settings) -> dict[str, Schema]:
    name = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    more: Schema = {"security": [{"token": []}]} if settings.control_token_file else {}
    load = describe_operation("Load a bundle, or load it anew", more=NAMED, parameters=name, **more)
    unload = describe_operation("Stop serving a bundle", more=NAMED, parameters=name, **more)
    path = "/v2/repository/models/{name}"
    return {f"{path}/load": {"post": load}, f"{path}/unload": {"post": unload}}


def describe_model_paths(model: ServedModel) -> dict[str, Schema]:
    name, base = model.name, f"/v2/models/{model.name}"
    return {
        base: {
            "get": describe_operation(
                f"What {name} takes and gives", {"type": "object"}, more=NAMED
            )
        },
        f"{base}/ready": {
            "get": describe_operation(
                f"Whether {name} answers", READY, more=NAMED | describe_unready(READY)
            )
        },
        f"{base}/config": {
            "get": describe_operation(
                f"The configuration of {name}", {"type": "object"}, more=NAMED
            )
        },
        f"{base}/stats": {
            "get": describe_operation(f"Statistics of {name}", {"type": "object"}, more=NAMED)
        },
        f"{base}/infer": {"post": describe_inference(name, model.signature)},
    }


def describe_inference(name: str, signature: Signature) -> Schema:
    tensors = [describe_tensor(each, signature.ranges) for each in signature.inputs.values()]
    named = {
        "name": {"enum": list(signature.outputs)},
        "parameters": {"type": "object", "properties": PER_OUTPUT},
    }
    outputs = {"type": "object", "required": ["name"], "properties": named}
    asked = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": PARAMETERS,
            "inputs": {
                "type": "array",
                "minItems": len(tensors),
                "maxItems": len(tensors),
                "items": {"oneOf": tensors},
            },
            "outputs": {"type": "array", "items": outputs},
        },
    }
    length = {"name": HEADER_LENGTH, "in": "header", "schema": {"type": "integer", "minimum": 0}}
    length["description"] = (
        "Bytes of the JSON, where those of tensors follow it: each has a binary_data_size "
        "instead of data"
    )
    body = {"required": True, "content": as_json(asked) | {"application/octet-stream": {}}}
    late = {"504": {"$ref": "#/components/responses/Late"}}
    made = describe_operation(
        f"Ask {name}",
        {"$ref": "#/components/schemas/Answer"},
        more=NAMED | late,
        requestBody=body,
        parameters=[length],
    )
    made["responses"]["200"]["content"]["application/octet-stream"] = {}
    return made


def describe_tensor(spec: TensorSpec, ranges: Mapping[str, tuple[int, int]]) -> Schema:
    """Return the schema of an input. ``data`` is flat, or nested as the shape says, which no schema
    of bearable size can express."""
    axes = [
        {"const": axis} if isinstance(axis, int) else describe_size(ranges.get(axis))
        for axis in spec.axes
    ]
    shape = {"type": "array", "prefixItems": axes, "minItems": len(axes), "maxItems": len(axes)}
    return {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": find_datatype(spec)},
            "shape": shape,
            "data": {
                "type": "array",
                "items": {
                    "anyOf": [describe_element(find_datatype(spec), spec.high), {"type": "array"}]
                },
            },
            "parameters": BEHIND,
        },
    }


def describe_size(allowed: tuple[int, int] | None) -> Schema:
    low, high = allowed or (0, None)
    return {"type": "integer", "minimum": low, **({} if high is None else {"maximum": high})}


def describe_element(datatype: str, high: int | None = None) -> Schema:
    if high is not None:
        return {"type": "integer", "minimum": 0, "maximum": high - 1}
    if found := re.fullmatch(r"(U?)INT(\d+)", datatype):
        bits = int(found[2])
        low, high = (0, 2**bits - 1) if found[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return {"type": "integer", "minimum": low, "maximum": high}
    if found := re.fullmatch(r"FP(\d+)", datatype):
        most = float(np.finfo(f"float{found[1]}").max)
        return {"type": "number", "minimum": -most, "maximum": most}
    return {"type": {"BYTES": "string", "BOOL": "boolean"}[datatype]}


def describe_operation(
    summary: str,
    answer: Schema | None = None,
    *,
    more: Schema | None = None,
    as_type: str = "application/json",
    **rest: Any,
) -> Schema:
    """Return an operation; ``more``: further responses. Every error but that of health is an object
    with ``error``."""
    told = {
        "description": "As asked",
        **({} if answer is None else {"content": {as_type: {"schema": answer}}}),
    }
    refused = {
        str(each.status): {"$ref": f"#/components/responses/{response_name(each)}"}
        for each in ANYWHERE
    }
    return {"summary": summary, "responses": {"200": told, **refused, **(more or {})}, **rest}


def describe_unready(told: Schema) -> Schema:
    """Return the response that it is not so, which has the status of servers that are busy."""
    either = {"anyOf": [told, {"$ref": "#/components/schemas/Error"}]}
    return {"503": {"description": "It is not", "content": as_json(either)}}


def as_json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
