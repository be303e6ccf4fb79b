"""Schema: the recipe as JSON schema, made from the stages' own fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar.pipeline.recipe import COMMON, Slot


def schema(table: Sequence[Slot]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe over these slots."""
    definitions: dict[str, Any] = {}
    sections = {slot.name: _section(slot, definitions) for slot in table if not slot.per_target}
    target: dict[str, Any] = {}
    for slot in table:
        if slot.per_target:
            target |= _section(slot, definitions)["properties"]
    gates = target.get("gates", {"type": "object"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "attar recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["task"],
        "properties": {
            "task": {"type": "string", "description": "package.module:Class or file.py:Class"},
            "seed": {"type": "integer", "default": 0},
            "gates": gates,
            **sections,
            "targets": {
                "type": "object",
                "additionalProperties": {"type": "object", "additionalProperties": False, "properties": target},
            },
        },
        "$defs": definitions,
    }


def _section(slot: Slot, definitions: dict[str, Any]) -> dict[str, Any]:
    made = slot.stage.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(made.get("$defs", {}))
    hidden = {"device", *COMMON} - {"seed", "gates"} - ({"task"} if slot.own_task else set())
    properties = {name: field for name, field in made["properties"].items() if name not in hidden}
    pinned = {"keep": {"type": "string", "description": "Pin the artifact with this key."}}
    return {"type": "object", "additionalProperties": False, "properties": properties | pinned}
