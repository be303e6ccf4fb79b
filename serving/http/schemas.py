"""JSON schemas that all models share."""

from __future__ import annotations

from typing import Any

from attar.serving.protocol.request import STATEFUL

Schema = dict[str, Any]
MANY = {"type": "array", "items": {"type": "object"}}
ECHOED = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
}
LARGEST = 2**53 - 1
"""Largest integer that every reader of JSON takes as it is."""
PARAMETERS = ECHOED | {
    "properties": {
        "timeout": {
            "type": "integer",
            "minimum": 0,
            "maximum": LARGEST,
            "description": "Microseconds",
        },
        "binary_data_output": {"type": "boolean"},
        **{name: {"enum": [0, False, ""]} for name in STATEFUL},
    }
}
BEHIND = {
    "type": "object",
    "properties": {"binary_data_size": False, "shared_memory_region": False},
}
"""Parameters of a tensor inside the JSON."""
PER_OUTPUT = {
    "classification": {"type": "integer", "minimum": 0, "maximum": LARGEST},
    "binary_data": {"type": "boolean"},
}
TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array"},
        "parameters": ECHOED,
    },
}
ANSWER = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": ECHOED,
        "outputs": {"type": "array", "items": TENSOR},
    },
}
ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
LIVE = {"type": "object", "required": ["live"], "properties": {"live": {"type": "boolean"}}}
READY = {
    "type": "object",
    "required": ["ready"],
    "properties": {"name": {"type": "string"}, "ready": {"type": "boolean"}},
}
