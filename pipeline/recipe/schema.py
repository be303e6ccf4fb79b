"""Schema: the JSON schema of recipes, from the stages' fields and their docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from attar.pipeline.recipe.pair import KEY as SIZES
from attar.pipeline.recipe.search_space import SECTION, SearchSpace, Span
from attar.pipeline.recipe.setting_errors import COMMON
from attar.pipeline.recipe.slot import PIN, Slot

HIDDEN = {"device", *COMMON} - {"seed", "gates"}
"""Fields of stages that a section does not set."""
KEEP = {
    "type": "string",
    "description": "Pin the artifact with this key, across versions of attar and of its libraries.",
}


def build_schema(table: Sequence[Slot]) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a recipe over these slots."""
    definitions: dict[str, Any] = {}
    sections = {
        slot.name: describe_section(slot, definitions) for slot in table if not slot.per_target
    }
    target: dict[str, Any] = {}
    candidate: dict[str, Any] = {}
    for slot in table:
        if slot.per_target:
            target |= (own := describe_section(slot, definitions)["properties"])
            candidate |= own if slot.scope == "candidate" else {}
    if "candidates" in target:
        target["candidates"] = {
            "description": target["candidates"]["description"],
            **describe_candidates(candidate),
        }
    if SIZES in target:
        target[SIZES] = describe_batch_sizes(target[SIZES])
    gates = target.get("gates", {"type": "object"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "attar recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["task"],
        "properties": {
            "task": {
                "type": "string",
                "description": "``package.module:Class`` or ``file.py:Class``.",
            },
            "seed": {
                "type": "integer",
                "default": 0,
                "description": "Given to every stage that draws random numbers.",
            },
            "gates": gates,
            SECTION: describe_search(definitions),
            **sections,
            "targets": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": target,
                },
            },
        },
        "$defs": definitions,
    }


def describe_search(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the search space: its settings, and dimensions, which have dots. Adds
    what it refers to to ``definitions``."""
    own = describe_model(SearchSpace, definitions)
    settings = {name: field for name, field in own["properties"].items() if name != "dimensions"}
    span = Span.model_json_schema()
    values = {"anyOf": [{"type": "array", "minItems": 1}, span]}
    return {
        "type": "object",
        "description": own["description"],
        "additionalProperties": False,
        "properties": settings,
        "patternProperties": {r"\.": values},
    }


def describe_candidates(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list of tables with these settings, or ``"all"``."""
    one = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"anyOf": [{"const": "all"}, {"type": "array", "minItems": 1, "items": one}]}


def describe_batch_sizes(one: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one batch size, or of 1 and a larger one."""
    larger = {"anyOf": [{"type": "integer", "minimum": 2}, {"const": "throughput"}]}
    pair = {
        "type": "array",
        "prefixItems": [{"const": 1}, larger],
        "minItems": 2,
        "maxItems": 2,
    }
    return {**one, "anyOf": [*one["anyOf"], pair]}


def describe_section(slot: Slot, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one slot's settings, and add what it refers to to ``definitions``."""
    section = describe_model(slot.stage, definitions)
    hidden = HIDDEN - ({"task"} if slot.own_task else set())
    fields = section["properties"]
    properties = {name: field for name, field in fields.items() if name not in hidden}
    pinned = {} if slot.per_target else {PIN: KEEP}
    return {"type": "object", "additionalProperties": False, "properties": properties | pinned}


def describe_model(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a model, and add what it refers to to ``definitions``."""
    schema = model.model_json_schema(
        ref_template="#/$defs/{model}", schema_generator=SchemaWithDocstrings
    )
    definitions.update(schema.get("$defs", {}))
    return schema


class SchemaWithDocstrings(GenerateJsonSchema):
    """Uses each field's docstring as its description, for editors and for the reference."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        described = super().model_schema(schema)
        for name, text in read_docstrings(schema["cls"]).items():
            if name in described.get("properties", {}):
                described["properties"][name].setdefault("description", text)
        return described


def read_docstrings(model: type) -> dict[str, str]:
    """Return the docstring under each field of a class and of its base classes."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        texts |= _documented(base)
    return texts


@cache
def _documented(model: type) -> dict[str, str]:
    if model.__module__.startswith("pydantic") or not inspect.get_annotations(model):
        return {}
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    statements = body.body if isinstance(body, ast.ClassDef) else []
    texts = {}
    for field, after in pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    texts[field.target.id] = inspect.cleandoc(text)
    return texts
