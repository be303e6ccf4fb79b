"""Commands that take a recipe."""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attar.cli.options import FOLDER, REQUIRE_ALL, is_verbose, recipe_options, run_options
from attar.cli.plain_text import escape_field, print_text
from attar.pipeline.core.errors import AttarError, RecipeError

if TYPE_CHECKING:
    from attar.pipeline.run import Record
    from attar.recipes.workspace import Workspace


def open_command_workspace(options: dict[str, Any]) -> Workspace:
    from attar.recipes.workspace import open_workspace
    from attar.stages.slots import SLOTS

    names = {"store", "overrides", "targets", "device", "against", "trusted"}
    given = {name: value for name, value in options.items() if name in names}
    return open_workspace(options["recipe"], SLOTS, **given)


def run_slots(step: str | None, output: Path | None, require_all: bool, **options: Any) -> None:
    """Make the wanted slots (all if none is named), show the result and exit with its code."""
    from attar.cli.console import open_console
    from attar.cli.deliver import check_places, deliver_results, end_command, postpone_errors
    from attar.proof.artifacts import Bundle, Verdict
    from attar.recipes.workspace import choose_exit_code

    workspace = open_command_workspace(options)
    slots = workspace.list_slots(step)
    kinds = {workspace.recipe.pipeline.slots[slot].stage.makes() for slot in slots}
    folder, delivers = output or workspace.output, Bundle in kinds
    if delivers:
        check_places(workspace, slots, folder)
    workspace.check_production(slots)
    records: list[Record] = []
    # What user code prints is no part of the result.
    with open_console() as view, redirect_stdout(sys.stderr):
        for record in workspace.run.walk(slots):
            view.done(record)
            records.append(record)
    report = None
    with postpone_errors() as undelivered:
        if delivers:
            report = deliver_results(records, folder, workspace.recipe.title, workspace.store)
    if Verdict in kinds:
        append_summary(records, workspace.recipe.title)
    show_results(records, report, options)
    if is_verbose(click.get_current_context()):
        for record in records:
            if record.cause:
                print_text("".join(traceback.format_exception(record.cause)).rstrip(), err=True)
    end_command(choose_exit_code(records, require_all=require_all), undelivered)


def append_summary(records: list[Record], title: str) -> None:
    """Append the summary for the page of a CI step. A failure prints a warning and changes no exit
    code."""
    from attar.proof.report.formats import summary

    try:
        summary.append_summary(records, title, os.environ)
    except AttarError as error:
        print_text(f"warning: {error}", err=True)


def show_results(
    records: list[Record],
    report: Path | None,
    options: dict[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Print the ledger, the bundles and the report; ``extra`` is part of the JSON."""
    from attar.proof.artifacts import Bundle, Evidence
    from attar.proof.report import data

    bundles = [record for record in records if record.makes is Bundle and record.path and report]
    delivered = {record.target: report.parent / record.target for record in bundles if report}
    if options["as_json"]:
        facts = data.build_data(records) | {"report": str(report) if report else None}
        facts |= extra or {}
        for target, bundle in delivered.items():
            facts["targets"][target]["bundle"] = str(bundle)
        click.echo(json.dumps(facts, indent=1))
        return
    if any(record.makes is Evidence and record.path for record in records):
        from attar.proof.report.formats import terminal

        terminal.print_ledger(records)
    for record in bundles:
        bundle = delivered[record.target]
        is_unfinished = record.facts.get("verdict") == "not run here"
        more = f"  unfinished: `attar finish {bundle} -o DIR` where its engine runs"
        print_text(f"bundle  {bundle}{more if is_unfinished else ''}")
    if report:
        click.echo(f"report  {report}")


STEPS = {
    "teach": "Train or import the teacher.",
    "label": "Store the teacher's answers.",
    "distill": "Train the student, and the control if it is enabled.",
    "export": "Export the student and the teacher to ONNX.",
    "optimize": "Write each target's graph in its precision.",
    "build": "Build each target's engine.",
    "validate": "Measure every hop on the test split and evaluate the gates.",
    "package": "Write the bundle of every target that passes its gates.",
}
"""By command: the slots that it makes after all that they need, and its summary."""
JUDGING = ("validate", "package")
"""Steps that end in verdicts."""


@click.command("run")
@run_options
@REQUIRE_ALL
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    metavar="DIR",
    show_default="latest/RECIPE in the store",
    help="Folder for the report and the bundles.",
)
def run(output: Path | None, require_all: bool, **options: Any) -> None:
    """Run the whole recipe for all targets.

    Exit code 1 if a stage broke, 2 if the recipe or the command is wrong, 3 if a target failed its
    gates or is undecided.
    """
    run_slots(None, output, require_all, **options)


def create_step_command(step: str) -> click.Command:
    """Return the command that makes the slots of a step and what they need."""

    def command(require_all: bool = False, **options: Any) -> None:
        run_slots(step, None, require_all, **options)

    full = run_options(REQUIRE_ALL(command) if step in JUDGING else command)
    return click.command(
        step, help=f"{STEPS[step]}\n\nFirst it makes every earlier slot that this needs."
    )(full)


@click.command()
@run_options
def plan(as_json: bool, **options: Any) -> None:
    """Show which slots would run, and why.

    It imports none of your code. What only your task or a network rules out, such as TensorRT for
    a network that generates, is told by `attar run` before it makes anything.
    """
    from attar.cli.plan_notes import describe_plan

    gc.disable()  # the states of many files stay in memory until the end
    try:
        workspace = open_command_workspace(options)
        plans = list(workspace.run.plan())
    finally:
        gc.enable()
    bound = workspace.recipe.pipeline.slots
    slots = [
        {"slot": p.slot, "action": p.action, "reason": describe_plan(p, bound[p.slot].stage)}
        for p in plans
    ]
    if as_json:
        click.echo(json.dumps({"slots": slots}, indent=1))
        return
    for each in slots:
        print_text(f"{each['action']:<7} {each['slot']:<18} {escape_field(each['reason'])}")


@click.command()
@recipe_options()
def fetch(as_json: bool, **options: Any) -> None:
    """Download the data that the recipe's task knows how to get."""
    from attar.models.task import load_task
    from attar.pipeline.core.error_context import name_slot_in_errors

    workspace = open_command_workspace(options)
    tasks = {
        stage.task
        for bound in workspace.recipe.pipeline.slots.values()
        if hasattr(stage := bound.stage, "task")
    }
    data: dict[str, list[str]] = {}
    with redirect_stdout(sys.stderr):  # what user code prints is no part of the result
        for name in sorted(tasks):
            with name_slot_in_errors(f"fetching for {name}"):
                load_task(name).fetch()
                data[name] = [str(item) for item in load_task(name).data()]
    click.echo(
        json.dumps(data, indent=1)
        if as_json
        else "\n".join(f"{name}: its data are here" for name in data)
    )


@click.command()
@run_options
@click.option(
    "-o",
    "--output",
    required=True,
    type=FOLDER,
    metavar="DIR",
    help="Folder for the report and the bundles.",
)
def report(output: Path, as_json: bool, **options: Any) -> None:
    """Write the report and copy the bundles from the store. Nothing is made.

    A bundle that is in the folder and that the recipe has not made anew stays, with a warning.
    """
    from attar.cli.deliver import check_places, deliver_results, find_unmade

    workspace = open_command_workspace(options)
    check_places(workspace, list(workspace.recipe.pipeline.slots), output)
    records = list(workspace.run.recall())
    if not any(record.key for record in records):
        raise RecipeError(
            f"nothing of {workspace.recipe.path.name} is made yet in {workspace.store.root}; "
            "`attar run` makes it"
        )
    unmade = find_unmade(records)
    path = deliver_results(records, output, workspace.recipe.title, workspace.store, keep=unmade)
    for bundle in sorted(output / target for target in unmade):
        if bundle.exists():
            print_text(
                f"warning: {bundle} stays as it was, since the recipe's own is not made yet; "
                "`attar run` makes it",
                err=True,
            )
    click.echo(json.dumps({"report": str(path)}) if as_json else f"report  {path}")


STEP_COMMANDS = [create_step_command(step) for step in STEPS]
