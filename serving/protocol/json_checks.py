"""Checks of the parts of a request's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attar.serving.core.errors import BadRequestError, TooLargeError, describe_kind, format_value
from attar.serving.core.settings import Settings
from attar.serving.protocol.json_numbers import Body, parse_json


def parse_object(text: Body) -> dict[str, Any]:
    """Return a JSON object. Raises BadRequestError for anything else."""
    made = parse_json(text)
    if type(made) is not dict:
        raise BadRequestError(f"the body is {describe_kind(made)}, expected an object")
    if type(made.get("parameters") or {}) is not dict:
        raise BadRequestError(
            f"parameters is {describe_kind(made['parameters'])}, expected an object"
        )
    return made


def pick_keys(told: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: told[name] for name in names if name in told}


def check_id(given: Any) -> str:
    if type(given) is not str:
        raise BadRequestError(f"the id is {describe_kind(given)}, expected a string")
    return given


def check_entries(told: Mapping[str, Any], name: str, settings: Settings) -> list[dict[str, Any]]:
    found = told.get(name)
    if type(found) is not list or not all(type(each) is dict for each in found):
        raise BadRequestError(f"{name} is {describe_kind(found)}, expected a list of objects")
    if len(found) > settings.max_tensors:
        raise TooLargeError(
            f"{len(found)} {name} are more than the {settings.max_tensors} that are allowed"
        )
    return found


def check_tensor_parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of one tensor."""
    found = entry.get("parameters") or {}
    if type(found) is not dict:
        raise BadRequestError(
            f"the parameters of {format_value(entry.get('name'))!r} are "
            f"{describe_kind(found)}, expected an object"
        )
    if "shared_memory_region" in found:
        raise BadRequestError("tensors in shared memory are not taken; send their bytes")
    return found


def check_flag(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise BadRequestError(f"{name} is {describe_kind(value)}, expected true or false")
    return value
