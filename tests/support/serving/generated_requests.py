"""Requests that schemathesis makes of a server's description, as it says and otherwise."""

from __future__ import annotations

import json
from collections import Counter
from http.client import HTTPConnection
from math import prod
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.serving.server_process import ServerProcess

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = 60
"""Of each operation, as described and otherwise."""


def described(server: ServerProcess) -> Any:
    connection = HTTPConnection(*server.http, timeout=20)
    connection.request("GET", "/openapi.json")
    made = json.loads(connection.getresponse().read())
    connection.close()
    return schemathesis.openapi.from_dict(made)


def complete(body: Any) -> Any:
    """What no schema tells: there are as many numbers as the shape says, none so large that the answer is Inf, an output is
    asked for once, and an integer is written without a point.
    """
    data = [tensor.pop("data") for tensor in body["inputs"]]
    made = integers(body)
    for tensor, numbers in zip(made["inputs"], data, strict=True):
        flat = [each for each in numbers if not isinstance(each, list)] or [0]
        size = prod(tensor["shape"])
        tensor["data"] = [each / 1e9 if abs(each) > 1e30 else each for each in (flat * size)[:size]]
    if "outputs" in made:
        made["outputs"] = list({each["name"]: each for each in made["outputs"]}.values())
    return made


def wait(body: Any) -> None:
    """However little time the request gives the server: it may rightly say that this was not enough."""
    parameters = body.get("parameters") if isinstance(body, dict) else None
    if isinstance(parameters, dict):
        parameters.pop("timeout", None)


def integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: integers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [integers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def drive(server: ServerProcess, operation: Any, mode: GenerationMode, whole: bool) -> Counter[int]:
    """The statuses; each answer is held against the description. ``whole``: complete what is asked of a model."""
    seen: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            wait(case.body)
        if whole and case.media_type == "application/json":
            case.headers.pop("Inference-Header-Content-Length", None)
            case.body = complete(case.body)
        answer = case.call(base_url=f"http://{server.http[0]}:{server.http[1]}")
        case.validate_response(answer, checks=CHECKS)
        assert not whole or case.media_type != "application/json" or answer.status_code == 200, (case.body, answer.text)
        seen[answer.status_code] += 1

    each()
    return seen


def all_of(server: ServerProcess, kind: str, whole: bool) -> dict[str, Counter[int]]:
    """The statuses of each operation that has anything to be chosen; of requests as described (``positive``) or ``negative``."""
    made, mode = {}, GenerationMode(kind)
    for found in described(server).get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.POSITIVE or operation.body:
            made[operation.label] = drive(server, operation, mode, whole and operation.label.endswith("/infer"))
    server.check()
    return made
