"""The description agrees with what is served: its paths are answered, its requests are taken, what it excludes is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.serving.http.openapi import describe_element, describe_size, describe_tensor
from tests.support.engines.tensor_specs import make_spec
from tests.support.serving.serving_parts import Running, asked, running


@pytest.fixture(scope="module")
def server(points_bundle: Path) -> Iterator[Running]:
    with running(points_bundle, model_control=True) as made:
        yield made


@pytest.fixture(scope="module")
def told(server: Running) -> dict[str, Any]:
    status, made, _ = server.ask("GET", "/openapi.json")
    assert status == 200
    return dict(made)


def test_every_path_is_answered_by_its_method_and_no_other(server: Running, told: dict[str, Any]) -> None:
    """A repository call is made for a name that is not there, as its error is one of the description, too."""
    for path, methods in told["paths"].items():
        (method,) = methods
        asking = asked([1, 2]) if path.endswith("/infer") else None
        status, answer, _ = server.ask(method.upper(), path.format(name="nothing"), asking)
        assert status == (404 if "{name}" in path else 200), path
        assert "{name}" not in path or "the repository has no bundle 'nothing'" in answer["error"]
        assert server.ask("GET" if method == "post" else "PUT", path.format(name="nothing"))[0] == 405


def test_every_route_is_described(server: Running, told: dict[str, Any]) -> None:
    """Of each pattern at least one path; versions are left to the metadata, and what the page for people asks to itself."""
    described = [(method.upper(), path.format(name="a")) for path, methods in told["paths"].items() for method in methods]
    for route in server.server.api.routes:
        if route.path.pattern == "/" or route.path.pattern.startswith("/page/"):
            continue
        assert any(route.method == made and route.path.fullmatch(path) for made, path in described), route.path.pattern


def test_a_model_takes_what_is_described(server: Running, told: dict[str, Any]) -> None:
    schema = told["paths"]["/v2/models/points/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    (described,) = schema["properties"]["inputs"]["items"]["oneOf"]
    rows, columns = described["properties"]["shape"]["prefixItems"]
    assert (described["properties"]["name"], described["properties"]["datatype"]) == ({"const": "x"}, {"const": "FP32"})
    assert (rows, columns) == ({"type": "integer", "minimum": 1, "maximum": 8}, {"const": 2})
    for count, status in ((rows["minimum"], 200), (rows["maximum"], 200), (rows["minimum"] - 1, 400), (rows["maximum"] + 1, 400)):
        assert server.ask("POST", "/v2/models/points/infer", asked(*[[1, 2]] * count))[0] == status
    assert schema["properties"]["outputs"]["items"]["properties"]["name"] == {"enum": ["logits"]}


def test_who_needs_a_token(points_bundle: Path, tmp_path: Path, told: dict[str, Any]) -> None:
    assert "security" not in told
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-a-test")
    with running(points_bundle, token_file=tokens) as server:
        assert server.ask("GET", "/openapi.json")[0] == 401
        made = server.ask("GET", "/openapi.json", Authorization="Bearer a-token-of-a-test")[1]
        assert made["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
        for path, methods in made["paths"].items():
            (method,) = methods
            free = methods[method].get("security", made["security"]) == []
            assert (server.ask(method.upper(), path.format(name="a"))[0] != 401) is free, path


def test_schemas() -> None:
    assert describe_element("INT8") == {"type": "integer", "minimum": -128, "maximum": 127}
    assert describe_element("UINT16") == {"type": "integer", "minimum": 0, "maximum": 65535}
    assert [describe_element(each)["type"] for each in ("FP16", "BOOL", "BYTES")] == ["number", "boolean", "string"]
    assert describe_size(None) == {"type": "integer", "minimum": 0}
    scalar = describe_tensor(make_spec("a", "BYTES", ()), {})["properties"]["shape"]
    assert scalar == {"type": "array", "prefixItems": [], "minItems": 0, "maxItems": 0}
