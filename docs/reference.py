"""Reference: pages that are made of the code while the site is built. ``render_pages`` says which."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator

import click

import attar
from attar.cli.main import main
from attar.recipes.workspace import SHIPPED, list_shipped_recipes
from docs.recipe_reference import format_cell, render_recipe


def render_pages() -> dict[str, str]:
    """Markdown by its place in the site."""
    return {
        "reference/recipe.md": render_recipe(),
        "reference/recipes.md": render_shipped_recipes(),
        "reference/commands.md": render_commands(),
        "reference/python.md": render_python(),
    }


def render_shipped_recipes() -> str:
    """The shipped recipes as they are."""
    parts = ["# Shipped recipes", "`attar run NAME` runs one; copy it to begin your own."]
    for name in list_shipped_recipes():
        text = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8")
        tomllib.loads(text)
        parts += [f"## {name}", f"```toml\n{text}```"]
    return "\n\n".join([*parts, ""])


def render_commands() -> str:
    """Every command with its options, as its own ``--help`` says it."""
    parts = ["# Commands", COMMANDS]
    with click.Context(main, info_name="attar", **main.context_settings) as above:
        for name, command in main.commands.items():
            with click.Context(command, above, info_name=name) as context:
                parts += [f"## attar {name}", *render_command(command, context)]
    return "\n\n".join([*parts, ""])


COMMANDS = """`RECIPE` is a path, or the name of a [shipped recipe](recipes.md). Exit codes and the JSON of `--json` are in
[attar as a stage of your pipeline](../ci.md#exit-codes)."""


def render_command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    yield inspect.cleandoc(command.help or "")
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    rows = [
        f"| `{names}` | {format_option(words)} |"
        for option in options
        for names, words in [option.get_help_record(context) or ("", "")]
    ]
    yield "\n".join(["| option | what it does |\n| --- | --- |", *rows])


def format_option(words: str) -> str:
    """click puts a default into square brackets, which Markdown takes for the beginning of a link."""
    return format_cell(re.sub(r"\[(.*?)\]$", r"(\1)", words))


def render_python() -> str:
    """The public names, in the order of their use."""
    parts = ["# Python", PYTHON]
    for heading, names in API.items():
        parts.append(f"## {heading}")
        parts += [render_entry(name) for name in names]
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


def render_entry(name: str) -> str:
    """A directive for mkdocstrings, under the name that users write."""
    home, _, inner = name.partition(":")
    if not inner:
        found = getattr(attar, name)
        home, inner = found.__module__, found.__qualname__
    shown = name.replace(":", ".") if ":" in name else f"attar.{name}"
    return f"::: {home}.{inner}\n    options:\n      heading: {shown}\n      toc_label: {inner if ':' in name else name}"
