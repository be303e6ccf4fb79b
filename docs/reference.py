"""Reference: pages that are made of the code while the site is built. ``pages`` says which."""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

import attar
from attar.cli.main import main
from attar.pipeline.core.stage import Stage
from attar.pipeline.recipe.schema import build_schema, describe_section
from attar.pipeline.recipe.slot import Slot
from attar.recipes.workspace import SHIPPED, list_shipped_recipes
from attar.stages.slots import SLOTS

Field = Mapping[str, Any]
"""A setting in JSON schema."""
HEAD = "| setting | type | default | what it is |\n| --- | --- | --- | --- |"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
NAMES = {"boolean": "true or false", "string": "text"}


def pages() -> dict[str, str]:
    """Markdown by its place in the site."""
    return {
        "reference/recipe.md": recipe(),
        "reference/recipes.md": recipes(),
        "reference/commands.md": commands(),
        "reference/python.md": python(),
    }


# -- the recipe
# -------------------------------------------------------------------------------------------------------


def recipe() -> str:
    """Every setting of every slot, from the same schema that ``attar schema`` prints."""
    whole = build_schema(SLOTS)
    top = {name: whole["properties"][name] for name in ("task", "seed")}
    gates = whole["properties"]["gates"]
    parts = [INTRODUCTION, "## At the top", table(top, required=["task"])]
    parts += ["## `[gates]`", *model(gates["$ref"], whole["$defs"], 3)]
    parts += [
        part
        for slot in SLOTS
        if not slot.per_target
        for part in slot_part(slot, f"## `[{slot.name}]`", slot.name)
    ]
    parts.append(TARGETS)
    parts += [
        part
        for slot in of_targets()
        for part in slot_part(slot, f"### NAME.{slot.name}", f"target-{slot.name}")
    ]
    return "\n\n".join([*parts, *losses(whole), ""])


INTRODUCTION = """# The recipe

A recipe is a TOML file. Each section is a slot, its keys are the settings of that slot's stage. A name that is not listed here is
an error, and nothing is run. `--set slot.field=value` overrides a setting from the command line, and `attar schema` prints all of
this as JSON schema, for editors and programs.

Where a setting names code (`task`, `network`), it reads `package.module:object`, or `file.py:object` beside the recipe. Paths are
relative to the recipe. Of both the content counts when attar decides what to make again, not the name."""

TARGETS = """## `[targets.NAME]`

One section for each deployment, named as you like. Its keys go to all of the stages below that have a setting of that name;
`[targets.NAME.gates]` overrides [`[gates]`](#gates).

`candidates` lists several forms of the target; each has a model and an engine of its own, `NAME.c1.model`, `NAME.c1.engine` and
so on, and [the fastest that keeps the promises](../engines.md#candidates) becomes the target's. Where `optimize_for` lists two batch
sizes, [a second one](../engines.md#an-engine-for-each) is chosen for batches: `NAME-batch.choice`, `.model`, `.engine`, `.evidence` and `.verdict`."""


def of_targets() -> list[Slot]:
    """Those with something to set: what only hands on the candidate that was chosen has nothing."""
    return [slot for slot in SLOTS if slot.per_target and describe_section(slot, {})["properties"]]


def slot_part(slot: Slot, heading: str, anchor: str) -> Iterator[str]:
    """Heading, what the stage does, what it reads and makes, its settings."""
    yield f"{heading} {{#{anchor}}}"
    yield lead(slot.stage)
    yield edges(slot)
    made = describe_section(slot, {})
    required = slot.stage.model_json_schema().get("required", [])
    shared = {name: other for other in slot.like for name in stage_of(other).model_fields}
    yield table(
        made["properties"], required, {name: f"as in `[{other}]`" for name, other in shared.items()}
    )


def lead(stage: type[Stage[Any]]) -> str:
    """The first paragraph of its docstring, or of its module's, which begins with the name, where the class only lists facts."""
    own = first(stage.__dict__.get("__doc__"))
    if own and not own.startswith("Facts:"):
        return plain(own)
    said = first(sys.modules[stage.__module__].__doc__).partition(": ")[2]
    return plain(said[:1].upper() + said[1:])


def first(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "").split("\n\n")[0]


def edges(slot: Slot) -> str:
    sources = [f"`{source}`" for source in slot.sources("required").values()]
    sources += [
        f"the `{source}` of every candidate" for source in slot.sources("repeated").values()
    ]
    return f"Reads {listed(sources) if sources else 'no other slot'}; makes `{slot.stage.makes().__name__}`."


def listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def stage_of(slot: str) -> type[Stage[Any]]:
    return next(each.stage for each in SLOTS if each.name == slot)


def model(reference: str, definitions: Mapping[str, Any], level: int) -> Iterator[str]:
    """A group of settings and the groups in it, each with its words and its table."""
    found = definitions[reference.rpartition("/")[2]]
    yield plain(found.get("description", ""))
    yield table(found["properties"], found.get("required", []))
    for name, field in found["properties"].items():
        if "$ref" in field:
            yield f"{'#' * level} `[gates.{name}]` {{#{target(field['$ref'])}}}"
            yield from model(field["$ref"], definitions, level + 1)


def losses(whole: Field) -> Iterator[str]:
    """What ``losses`` and ``distiller`` of the student hold."""
    student, definitions = whole["properties"]["student"]["properties"], whole["$defs"]
    yield "## Losses {#losses}"
    yield (
        "Entries of `losses` in [`[student]`](#student); which to take is in [How a student learns](../learning.md#losses)."
    )
    for kind, reference in student["losses"]["items"]["discriminator"]["mapping"].items():
        found = definitions[reference.rpartition("/")[2]]
        yield f'### `kind = "{kind}"` {{#loss-{kind}}}'
        yield table(
            {name: field for name, field in found["properties"].items() if name != "kind"},
            found.get("required", []),
        )
    reference = next(option["$ref"] for option in student["distiller"]["anyOf"] if "$ref" in option)
    yield f"## The distiller {{#{target(reference)}}}"
    yield (
        "Settings of `distiller` in [`[student]`](#student); see [How a student learns](../learning.md#the-distiller)."
    )
    yield table(definitions[reference.rpartition("/")[2]]["properties"])


def table(
    fields: Mapping[str, Field],
    required: Iterable[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> str:
    """One row a setting. ``elsewhere``: where the value comes from when a section does not say."""
    given, needed = elsewhere or {}, set(required)
    cells = [
        (
            f"`{name}`",
            kind(field),
            given.get(name) or default(field, name in needed),
            plain(field.get("description", "")),
        )
        for name, field in fields.items()
    ]
    return "\n".join([HEAD, *(f"| {' | '.join(row)} |" for row in cells)])


def plain(words: str) -> str:
    """A docstring within a cell: on one line, a bar outside of code escaped."""
    pieces = " ".join(words.split()).replace("``", "`").split("`")
    return "`".join(
        piece if index % 2 else piece.replace("|", "\\|") for index, piece in enumerate(pieces)
    )


def kind(field: Field) -> str:
    """The type in words; what may be absent is told by its default."""
    if "$ref" in field:
        return f"[table](#{target(field['$ref'])})"
    if "anyOf" in field:
        return " or ".join(kind(each) for each in field["anyOf"] if each.get("type") != "null")
    if "const" in field or "enum" in field:
        return " or ".join(f"`{toml(value)}`" for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])} {kind(field['prefixItems'][0])}s"
    if field["type"] == "array":
        return (
            "list of [losses](#losses)"
            if "oneOf" in field["items"]
            else f"list of {kind(field['items'])}"
        )
    if field["type"] == "object":
        return "table"
    name = str(field.get("format") or NAMES.get(field["type"], field["type"]))
    return ", ".join([name, *bounds(field)])


def bounds(field: Field) -> list[str]:
    if "minimum" in field and "maximum" in field:
        return [f"{field['minimum']:g}\u00a0to\u00a0{field['maximum']:g}".replace("-", "−")]
    return [f"{sign}\u00a0{field[bound]:g}" for bound, sign in BOUNDS.items() if bound in field]


def target(reference: str) -> str:
    """The anchor of a group of settings."""
    return {"GateLimits": "gates", "DistillerSettings": "distiller"}.get(
        name := reference.rpartition("/")[2], name.lower()
    )


def default(field: Field, required: bool) -> str:
    value = field.get("default")
    if required:
        return "**required**"
    return "" if value is None or "$ref" in field else f"`{toml(value)}`"


def toml(value: Any) -> str:
    """A value as a recipe writes it; what is not set is left out."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        inside = ", ".join(
            f"{name} = {toml(each)}" for name, each in value.items() if each is not None
        )
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else f"{value}"


# -- shipped recipes, commands, Python --------------------------------------------------------------------------------


def recipes() -> str:
    """The shipped recipes as they are."""
    parts = ["# Shipped recipes", "`attar run NAME` runs one; copy it to begin your own."]
    for name in list_shipped_recipes():
        text = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8")
        tomllib.loads(text)
        parts += [f"## {name}", f"```toml\n{text}```"]
    return "\n\n".join([*parts, ""])


def commands() -> str:
    """Every command with its options, as its own ``--help`` says it."""
    parts = ["# Commands", COMMANDS]
    with click.Context(main, info_name="attar", **main.context_settings) as above:
        for name, command in main.commands.items():
            with click.Context(command, above, info_name=name) as context:
                parts += [f"## attar {name}", *described(command, context)]
    return "\n\n".join([*parts, ""])


COMMANDS = """`RECIPE` is a path, or the name of a [shipped recipe](recipes.md). Exit codes and the JSON of `--json` are in
[attar as a stage of your pipeline](../ci.md#exit-codes)."""


def described(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    yield inspect.cleandoc(command.help or "")
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    rows = [
        f"| `{names}` | {cell(words)} |"
        for option in options
        for names, words in [option.get_help_record(context) or ("", "")]
    ]
    yield "\n".join(["| option | what it does |\n| --- | --- |", *rows])


def cell(words: str) -> str:
    """click puts a default into square brackets, which Markdown takes for the beginning of a link."""
    return plain(re.sub(r"\[(.*?)\]$", r"(\1)", words))


def python() -> str:
    """The public names, in the order of their use."""
    parts = ["# Python", PYTHON]
    for heading, names in API.items():
        parts.append(f"## {heading}")
        parts += [entry(name) for name in names]
    return "\n\n".join([*parts, ""])


PYTHON = """What is headed `attar.NAME` is public under that name; the others are what these return, take or raise.
`import attar` loads nothing until a name is used, and `attar.open` never needs torch.

```python
import attar

records = attar.run("recipe.toml")            # a record a slot
with attar.open(".attar/latest/recipe/cpu") as predict:
    outputs = predict(predict.preprocess(requests))
```"""

API = {
    "Run and serve": (
        "run",
        "open",
        "attar.bundle.opening:BundlePredictor",
        "attar.bundle.finish:finish_bundle",
        "attar.bundle.sign:sign_bundle",
        "attar.pipeline.run:Record",
    ),
    "A task": ("Task", "Tensor", "Output", "Split", "InMemory", "Batch"),
    "Splits of data in files": (
        *("FileSplit", "TableSplit", "MapSplit", "ShardSplit", "NpySplit", "Subset"),
        *("deal_samples", "read_split_list"),
    ),
    "Scores": (
        "hits",
        *("count_decisions", "compute_f1", "join_labels", "compute_mean_ap"),
        *("count_hits", "compute_share", "count_overlaps", "compute_mean_iou"),
    ),
    "Preprocessing, and steps on outputs": (
        "DecodeImage",
        "Resize",
        "CenterCrop",
        "ChannelsFirst",
        "Scale",
        "Normalize",
        "Tokenize",
        "Detokenize",
    ),
    "A stage of your own": ("Stage", "Artifact"),
    "Errors": tuple(
        f"attar.pipeline.core.errors:{name}"
        for name in (
            "AttarError",
            "RecipeError",
            "StageError",
            "StoreError",
            "MissingDependencyError",
            "GateError",
            "InvalidBundleError",
        )
    ),
}


def entry(name: str) -> str:
    """A directive for mkdocstrings, under the name that users write."""
    home, _, inner = name.partition(":")
    if not inner:
        found = getattr(attar, name)
        home, inner = found.__module__, found.__qualname__
    shown = name.replace(":", ".") if ":" in name else f"attar.{name}"
    return f"::: {home}.{inner}\n    options:\n      heading: {shown}\n      toc_label: {inner if ':' in name else name}"
