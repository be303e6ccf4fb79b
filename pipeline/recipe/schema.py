"""Schema: the recipe as JSON schema, made from the stages' own fields and what their docstrings say
of them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from attar.pipeline.recipe.recipe import COMMON
from attar.pipeline.recipe.slot import Slot

HIDDEN = {"device", *COMMON} - {"seed", "gates"}
"""Fields of stages that a section does not set."""
KEEP = {
    "type": "string",
    "description": "Pin the artifact with this key, across versions of attar and of its libraries.",
}


def build_schema(table: Sequence[Slot]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe over these slots."""
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


def describe_candidates(properties: dict[str, Any]) -> dict[str, Any]:
    """A list of tables that may set these, or ``"all"``."""
    one = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"anyOf": [{"const": "all"}, {"type": "array", "minItems": 1, "items": one}]}


def describe_section(slot: Slot, definitions: dict[str, Any]) -> dict[str, Any]:
    """The settings of one slot; ``definitions`` gets what they refer to."""
    made = slot.stage.model_json_schema(
        ref_template="#/$defs/{model}", schema_generator=SchemaWithDocstrings
    )
    definitions.update(made.get("$defs", {}))
    hidden = HIDDEN - ({"task"} if slot.own_task else set())
    properties = {name: field for name, field in made["properties"].items() if name not in hidden}
    pinned = {} if slot.per_target else {"keep": KEEP}
    return {"type": "object", "additionalProperties": False, "properties": properties | pinned}


class SchemaWithDocstrings(GenerateJsonSchema):
    """Each field's docstring is its description: an editor shows it, and so does the reference."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().model_schema(schema)
        for name, text in read_docstrings(schema["cls"]).items():
            if name in made.get("properties", {}):
                made["properties"][name].setdefault("description", text)
        return made


def read_docstrings(model: type) -> dict[str, str]:
    """What stands in the source under each field of a class and of those that it derives from."""
    return {
        name: text for base in reversed(model.__mro__) for name, text in _documented(base).items()
    }


@cache
def _documented(model: type) -> dict[str, str]:
    if model.__module__.startswith("pydantic") or not inspect.get_annotations(model):
        return {}
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    statements = body.body if isinstance(body, ast.ClassDef) else []
    found = {}
    for field, after in pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[field.target.id] = inspect.cleandoc(text)
    return found
