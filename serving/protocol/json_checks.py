"""Checks of the parts of a request's JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attar.serving.core.errors import BadRequestError, TooLargeError, describe_kind, format_value
from attar.serving.core.settings import Settings
from attar.serving.protocol.json_numbers import Body, parse_json

SPELT = re.compile(rb"\\u00[67]")
"""An escape that may stand for a letter, in a key too."""


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


def check_data_once(text: Body, expected: int) -> None:
    """Raise BadRequestError where an object has ``data`` twice: readers differ in which they take.

    ``text`` is JSON, and ``expected`` how many objects have it. Few texts have to be read again.
    """
    if text.count(b'"data"') == expected and not SPELT.search(text):
        return
    try:
        json.loads(text, object_pairs_hook=check_pairs, parse_int=len, parse_float=len)
    except RecursionError as error:
        raise BadRequestError("the JSON is nested too deeply") from error


def check_pairs(pairs: Sequence[tuple[str, Any]]) -> None:
    if sum(name == "data" for name, _ in pairs) > 1:
        raise BadRequestError("data is there twice")


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
