"""``attar search``: the best student that keeps the promises."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attar.cli.recipe import FOLDER, recipe_options, show_results
from attar.pipeline import team
from attar.pipeline.core.errors import MissingDependencyError, RecipeError

if TYPE_CHECKING:
    from attar.pipeline.run import Record
    from attar.search.result import SearchResult, VariantResult
    from attar.search.variant import Search

NOT_FOUND = 3
"""The exit code of a search in which no variant keeps all promises."""


@click.command("search")
@recipe_options
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    metavar="DIR",
    show_default="latest/RECIPE-search in the store",
    help="Folder for the page of the search, search.html, and search.json.",
)
def search(output: Path | None, against: Path | None, trusted: Path | None, **options: Any) -> None:
    """Find the best student that keeps the recipe's promises.

    The recipe's section [search] names the settings that may change. All variants are built
    untrained and timed first; only those that may win are trained, on the stored answers. Choices
    are made on validation. The winner's recipe is written beside the searched one, as
    RECIPE-found.toml, and run once on the test split.

    Exit code 3 if no variant keeps all promises on validation, or the winner fails on test.
    """
    if against or trusted:
        raise RecipeError("a search compares with no bundle in production; run the found recipe")
    if team.is_started_in_team():
        raise RecipeError("a search trains one student after the other; start it without torchrun")
    opened, result = find_best(options)
    from attar.proof.ledger.ledger_json import to_json
    from attar.recipes.workspace import choose_exit_code
    from attar.search.report import write_search_report
    from attar.search.winner import write_winner

    folder = output or opened.store.root / "latest" / f"{result.recipe}-search"
    page = write_search_report(result, folder)
    winner = result.get_winner()
    if winner is None:
        print_failure(result, page, options["as_json"])
        sys.exit(NOT_FOUND)
    file = write_winner(opened, winner)
    records, report = run_winner(opened, file)
    if not options["as_json"]:
        print_winner(winner, result, page, file)
    show_results(records, report, options, {"search": to_json(result), "page": str(page)})
    sys.exit(choose_exit_code(records))


def find_best(options: dict[str, Any]) -> tuple[Search, SearchResult]:
    """Raises MissingDependencyError if the extra is not installed."""
    try:
        from attar.search.run import run_search
        from attar.search.variant import Search
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"a search needs {error.name}: pip install 'attar[search]'"
        ) from error
    from attar.cli.console import open_console

    names = ("recipe", "store", "overrides", "targets", "device")
    opened = Search.create(**{name: options[name] for name in names})
    with open_console() as view, redirect_stdout(sys.stderr):
        return opened, run_search(opened, view.done)


def run_winner(opened: Search, file: Path) -> tuple[list[Record], Path]:
    """Run the found recipe, which makes what the search did not, and write its report."""
    from attar.cli.console import open_console
    from attar.cli.deliver import deliver_results
    from attar.recipes.workspace import open_workspace
    from attar.stages.slots import SLOTS

    workspace = open_workspace(str(file), SLOTS, opened.store, device=opened.device)
    records: list[Record] = []
    with open_console() as view, redirect_stdout(sys.stderr):
        for record in workspace.run.walk():
            view.done(record)
            records.append(record)
    report = deliver_results(records, workspace.output, workspace.recipe.title, workspace.store)
    return records, report


def print_winner(winner: VariantResult, result: SearchResult, page: Path, file: Path) -> None:
    click.echo(f"winner  {winner.title}")
    for note in result.notes:
        click.echo(f"        {note}")
    click.echo(f"recipe  {file}\nsearch  {page}")


def print_failure(result: SearchResult, page: Path, as_json: bool) -> None:
    from attar.proof.ledger.ledger_json import to_json

    if as_json:
        click.echo(json.dumps({"search": to_json(result), "page": str(page)}, indent=1))
        return
    click.echo("no variant keeps all promises on validation; the closest:")
    for each in result.list_closest():
        click.echo(f"  {each.title}: {'; '.join(each.broken)}")
    click.echo(f"search  {page}")
