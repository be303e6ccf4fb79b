"""Commands that show a store or this machine instead of running a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from attar.cli.options import JSON, VERBOSE, store_options
from attar.cli.plain_text import escape_field, print_text

if TYPE_CHECKING:
    from attar.pipeline.store.entry import Entry
    from attar.pipeline.store.store import Store


@click.command()
@click.argument("key")
@store_options
@click.option("--verify", is_flag=True, help="Verify the digest of every file.")
@VERBOSE
def show(key: str, store: Store, verify: bool) -> None:
    """Show one artifact: its key, its facts and its files.

    KEY is a key or its beginning. The path or name of a recipe shows the keys that it used last;
    --verify then reads the files of each.
    """
    from attar.pipeline.core.error_context import name_slot_in_errors
    from attar.pipeline.core.errors import RecipeError
    from attar.pipeline.planner import LastKeys
    from attar.pipeline.recipe.recipe import make_recipe_id
    from attar.recipes.workspace import find_recipe

    if not _is_hex(key):
        used = LastKeys(store, make_recipe_id(find_recipe(key))).keys
        if not used:
            raise RecipeError(
                f"{key} used nothing in {store.root} yet; `attar run {key}` makes it, "
                "`attar ls` lists what is there"
            )
        for slot, last in used.items():
            if verify:
                with name_slot_in_errors(slot):
                    verify_entry(store, store.match(last))
            print_text(f"{escape_field(slot):<18} {escape_field(last)}")
        return
    entry = store.match(key)
    if verify:
        verify_entry(store, entry)
    facts = store.read_facts(entry.key)
    click.echo(json.dumps({"path": str(entry.root), "facts": facts, **entry.record}, indent=1))


def verify_entry(store: Store, entry: Entry) -> None:
    """Raises CorruptArtifactError if a file is not what was made."""
    from attar.pipeline.core.stage import Artifact

    store.verify(Artifact(entry.key, entry.record["digest"], entry.root, {}))


@click.command()
@store_options
@JSON
def ls(store: Store, as_json: bool) -> None:
    """List the stored artifacts, newest first."""
    used = store.used()
    rows: list[dict[str, Any]] = [
        {
            "key": e.key,
            "slot": e.record["slot"],
            "date": e.record["made"]["date"],
            "bytes": e.bytes,
            "in_use": e.key in used,
            "here": e.root.exists(),
            "signed_by": e.signer,
            "distrust": e.distrust,
        }
        for e in store.entries()
    ]
    if as_json:
        click.echo(json.dumps({"artifacts": rows}, indent=1))
        return
    for row in rows:
        mark = "*" if row["in_use"] else " "
        slot, date = escape_field(row["slot"]), escape_field(row["date"])
        print_text(
            f"{mark} {row['key'][:12]}  {slot:<18} {_size(row['bytes']):>10}  {date}"
            + ("" if row["here"] else "  not fetched")
            + _describe_signature(row["signed_by"], row["distrust"])
        )
    total = _size(sum(row["bytes"] for row in rows))
    click.echo(f"{len(rows)} artifacts, {total}; * is in use by a recipe")


@click.command()
@store_options
@click.option("--dry-run", is_flag=True, help="Print what would be deleted.")
def gc(store: Store, dry_run: bool) -> None:
    """Delete artifacts that no recipe used last, and abandoned work.

    In a store at a URL, what no recipe of any machine used last is deleted if it is older than a
    day.
    """
    verb = "would delete" if dry_run else "deleted"
    done = [f"{verb} {what}  {_size(size)}" for what, size in store.collect(dry_run=dry_run)]
    print_text("\n".join(done) or "nothing to delete")


@click.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from attar.pipeline.recipe.schema import build_schema
    from attar.stages.slots import SLOTS

    click.echo(json.dumps(build_schema(SLOTS), indent=1))


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Show what this machine can build and run.

    Lists the CPU, the GPU, the installed libraries, and each runtime with its precisions.
    """
    from attar.cli.doctor import describe_abilities
    from attar.engines.runtimes.runtime import RUNTIMES, BuildSpec, load_runtime

    facts = describe_abilities({name: load_runtime(name) for name in RUNTIMES}, BuildSpec)
    click.echo(json.dumps(facts, indent=1) if as_json else _block(facts))


def _describe_signature(signer: str | None, distrust: str | None) -> str:
    if distrust:
        return f"  not trusted: it {escape_field(distrust)}"
    return f"  signed by {escape_field(signer)}" if signer else ""


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdef" for c in text)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _block(facts: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name}\n{_block(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{name:<16} {value}")
    return "\n".join(lines)
