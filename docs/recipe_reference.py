"""The recipe in the reference: every setting of every slot, from the schema of recipes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attar.pipeline.core.stage import Stage
from attar.pipeline.recipe.schema import build_schema, describe_section
from attar.pipeline.recipe.slot import Slot
from attar.stages.slots import SLOTS

Field = Mapping[str, Any]
"""A setting in JSON schema."""
HEAD = "| setting | type | default | what it is |\n| --- | --- | --- | --- |"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
ANCHORS = {
    "GateLimits": "gates",
    "DistillerSettings": "distiller",
    "ClusterResources": "search-resources",
}
NAMES = {"boolean": "true or false", "string": "text"}


def render_recipe() -> str:
    """Every setting of every slot, from the same schema that ``attar schema`` prints."""
    whole = build_schema(SLOTS)
    top = {name: whole["properties"][name] for name in ("task", "seed")}
    gates = whole["properties"]["gates"]
    parts = [INTRODUCTION, "## At the top", render_table(top, required=["task"])]
    limits = find_group(gates["$ref"], whole["$defs"])
    parts += ["## `[gates]`", *render_group("gates", limits, whole["$defs"])]
    parts += [
        part
        for slot in SLOTS
        if not slot.per_target
        for part in render_slot(slot, f"## `[{slot.name}]`", slot.name)
    ]
    search = whole["properties"]["search"]
    parts += ["## `[search]` {#search}", SEARCH, *render_group("search", search, whole["$defs"])]
    parts.append(TARGETS)
    parts += [
        part
        for slot in list_target_slots()
        for part in render_slot(slot, f"### NAME.{slot.name}", f"target-{slot.name}")
    ]
    return "\n\n".join([*parts, *render_losses(whole), ""])


INTRODUCTION = """# The recipe

A recipe is a TOML file. Each section is a slot, its keys are the settings of that slot's stage. A name that is not listed here is
an error, and nothing is run. `--set slot.field=value` overrides a setting from the command line, and `attar schema` prints all of
this as JSON schema, for editors and programs.

Where a setting names code (`task`, `network`), it reads `package.module:object`, or `file.py:object` beside the recipe. Paths are
relative to the recipe. Of both the content counts when attar decides what to make again, not the name."""

SEARCH = """What a search does is in [Search for a student](../search.md), and what a cluster does for it in
[Search on a cluster](../cluster.md). No key counts this section."""

TARGETS = """## `[targets.NAME]`

One section for each deployment, named as you like. Its keys go to all of the stages below that have a setting of that name;
`[targets.NAME.gates]` overrides [`[gates]`](#gates).

`candidates` lists several forms of the target; each has a model and an engine of its own, `NAME.c1.model`, `NAME.c1.engine` and
so on, and [the fastest that keeps the promises](../engines.md#candidates) becomes the target's. Where `optimize_for` lists two batch
sizes, [a second one](../engines.md#an-engine-for-each) is chosen for batches: `NAME-batch.choice`, `.model`, `.engine`, `.evidence` and `.verdict`."""


def list_target_slots() -> list[Slot]:
    """Those with something to set: what only hands on the candidate that was chosen has nothing."""
    return [slot for slot in SLOTS if slot.per_target and describe_section(slot, {})["properties"]]


def render_slot(slot: Slot, heading: str, anchor: str) -> Iterator[str]:
    """Heading, what the stage does, what it reads and makes, its settings."""
    yield f"{heading} {{#{anchor}}}"
    yield read_lead(slot.stage)
    yield describe_edges(slot)
    made = describe_section(slot, {})
    required = slot.stage.model_json_schema().get("required", [])
    shared = {name: other for other in slot.like for name in find_stage(other).model_fields}
    yield render_table(
        made["properties"], required, {name: f"as in `[{other}]`" for name, other in shared.items()}
    )


def read_lead(stage: type[Stage[Any]]) -> str:
    """The first paragraph of its docstring, or of its module's, which begins with the name, where the class only lists facts."""
    own = read_first_paragraph(stage.__dict__.get("__doc__"))
    if own and not own.startswith("Facts:"):
        return format_cell(own)
    said = read_first_paragraph(sys.modules[stage.__module__].__doc__).partition(": ")[2]
    return format_cell(said[:1].upper() + said[1:])


def read_first_paragraph(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "").split("\n\n")[0]


def describe_edges(slot: Slot) -> str:
    sources = [f"`{source}`" for source in slot.sources("required").values()]
    sources += [
        f"the `{source}` of every candidate" for source in slot.sources("repeated").values()
    ]
    return f"Reads {join_words(sources) if sources else 'no other slot'}; makes `{slot.stage.makes().__name__}`."


def join_words(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def find_stage(slot: str) -> type[Stage[Any]]:
    return next(each.stage for each in SLOTS if each.name == slot)


def find_group(reference: str, definitions: Mapping[str, Any]) -> Field:
    found: Field = definitions[reference.rpartition("/")[2]]
    return found


def render_group(section: str, group: Field, definitions: Mapping[str, Any]) -> Iterator[str]:
    """A group of settings and the groups in it, each with its words and its table."""
    yield format_cell(group.get("description", ""))
    yield render_table(group["properties"], group.get("required", []))
    for name, field in group["properties"].items():
        if "$ref" in field:
            inside, level = f"{section}.{name}", "##" + "#" * (section.count(".") + 1)
            yield f"{level} `[{inside}]` {{#{find_anchor(field['$ref'])}}}"
            yield from render_group(inside, find_group(field["$ref"], definitions), definitions)


def render_losses(whole: Field) -> Iterator[str]:
    """What ``losses`` and ``distiller`` of the student hold."""
    student, definitions = whole["properties"]["student"]["properties"], whole["$defs"]
    yield "## Losses {#losses}"
    yield (
        "Entries of `losses` in [`[student]`](#student); which to take is in [How a student learns](../learning.md#losses)."
    )
    for kind, reference in student["losses"]["items"]["discriminator"]["mapping"].items():
        found = definitions[reference.rpartition("/")[2]]
        yield f'### `kind = "{kind}"` {{#loss-{kind}}}'
        yield render_table(
            {name: field for name, field in found["properties"].items() if name != "kind"},
            found.get("required", []),
        )
    reference = next(option["$ref"] for option in student["distiller"]["anyOf"] if "$ref" in option)
    yield f"## The distiller {{#{find_anchor(reference)}}}"
    yield (
        "Settings of `distiller` in [`[student]`](#student); see [How a student learns](../learning.md#the-distiller)."
    )
    yield render_table(definitions[reference.rpartition("/")[2]]["properties"])


def render_table(
    fields: Mapping[str, Field],
    required: Iterable[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> str:
    """One row a setting. ``elsewhere``: where the value comes from when a section does not say."""
    given, needed = elsewhere or {}, set(required)
    cells = [
        (
            f"`{name}`",
            describe_kind(field),
            given.get(name) or describe_default(field, name in needed),
            format_cell(field.get("description", "")),
        )
        for name, field in fields.items()
    ]
    return "\n".join([HEAD, *(f"| {' | '.join(row)} |" for row in cells)])


def format_cell(words: str) -> str:
    """A docstring within a cell: on one line, a bar outside of code escaped."""
    pieces = " ".join(words.split()).replace("``", "`").split("`")
    return "`".join(
        piece if index % 2 else piece.replace("|", "\\|") for index, piece in enumerate(pieces)
    )


def describe_kind(field: Field) -> str:
    """The type in words; what may be absent is told by its default."""
    if "$ref" in field:
        return f"[table](#{find_anchor(field['$ref'])})"
    if "anyOf" in field:
        return " or ".join(
            describe_kind(each) for each in field["anyOf"] if each.get("type") != "null"
        )
    if "const" in field or "enum" in field:
        return " or ".join(
            f"`{format_toml(value)}`" for value in field.get("enum", [field.get("const")])
        )
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])} {describe_kind(field['prefixItems'][0])}s"
    if field["type"] == "array":
        return (
            "list of [losses](#losses)"
            if "oneOf" in field["items"]
            else f"list of {describe_kind(field['items'])}"
        )
    if field["type"] == "object":
        return "table"
    name = str(field.get("format") or NAMES.get(field["type"], field["type"]))
    return ", ".join([name, *describe_bounds(field)])


def describe_bounds(field: Field) -> list[str]:
    if "minimum" in field and "maximum" in field:
        return [f"{field['minimum']:g}\u00a0to\u00a0{field['maximum']:g}".replace("-", "−")]
    return [f"{sign}\u00a0{field[bound]:g}" for bound, sign in BOUNDS.items() if bound in field]


def find_anchor(reference: str) -> str:
    """The anchor of a group of settings."""
    name = reference.rpartition("/")[2]
    return ANCHORS.get(name, name.lower())


def describe_default(field: Field, required: bool) -> str:
    value = field.get("default")
    if required:
        return "**required**"
    return "" if value is None or "$ref" in field else f"`{format_toml(value)}`"


def format_toml(value: Any) -> str:
    """A value as a recipe writes it; what is not set is left out."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        inside = ", ".join(
            f"{name} = {format_toml(each)}" for name, each in value.items() if each is not None
        )
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(format_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else f"{value}"
