"""``attar search``: the fastest student that keeps the promises."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attar.cli.options import DEVICE, FOLDER, TARGET, recipe_options
from attar.cli.plain_text import print_text
from attar.cli.recipe import show_results
from attar.pipeline import team
from attar.pipeline.core.errors import AttarError, MissingDependencyError, RecipeError

if TYPE_CHECKING:
    from attar.pipeline.run import Record
    from attar.search.recipe_search import RecipeSearch
    from attar.search.result import SearchResult, VariantResult
    from attar.search.runner import Runner

NOT_FOUND = 3
"""The exit code of a search in which no variant keeps all promises."""


@click.command("search")
@recipe_options(TARGET, DEVICE)
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    metavar="DIR",
    show_default="latest/RECIPE-search in the store",
    help="Folder for the page of the search, search.html, and search.json.",
)
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    help="Ray cluster that trains and times: HOST:PORT, or auto for the one of this machine. It "
    "needs a store at a URL.",
)
def search(output: Path | None, address: str | None, **options: Any) -> None:
    """Find the fastest student that keeps the recipe's promises.

    The recipe's section [search] names the settings that may change; its `objective` may ask for
    the smallest or the best one instead. All variants are built untrained and timed first; only
    those that may win are trained, on the stored answers. Choices are made on validation. The
    winner's recipe is written beside the searched one, as RECIPE-found.toml, and run once on the
    test split.

    Exit code 3 if no variant keeps all promises on validation, or the winner fails on test.
    """
    if team.is_started_in_team():
        raise RecipeError("a search trains one student after the other; start it without torchrun")
    from attar.cli.deliver import end_command

    opened = open_search(options)
    with open_runner(opened, address) as runner:
        code, undelivered = run(opened, runner, output, options)
    end_command(code, undelivered)


def open_search(options: dict[str, Any]) -> RecipeSearch:
    """Raises MissingDependencyError if the extra is not installed."""
    try:
        from attar.search.recipe_search import RecipeSearch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"a search needs {error.name}: pip install 'attar[search]'"
        ) from error
    names = ("recipe", "store", "overrides", "targets", "device")
    return RecipeSearch.create(**{name: options[name] for name in names})


@contextmanager
def open_runner(opened: RecipeSearch, address: str | None) -> Iterator[Runner]:
    """Yield what trains and times: the cluster at ``address``, or this machine."""
    if address is None:
        from attar.search.code_watch import CodeWatch
        from attar.search.runner import LocalRunner

        yield LocalRunner(CodeWatch.start(opened))
        return
    from attar.search.cluster.runner import open_cluster

    with open_cluster(opened, address) as runner:
        yield runner


def run(
    opened: RecipeSearch, runner: Runner, output: Path | None, options: dict[str, Any]
) -> tuple[int, list[AttarError]]:
    """Search, run the winner, and show both. Return the exit code of what was found, and why it
    could not be delivered."""
    from attar.cli.deliver import postpone_errors
    from attar.recipes.workspace import choose_exit_code
    from attar.search.report import write_search_report
    from attar.search.winner import judge_winner, write_winner

    result = find_best(opened, runner)
    folder = output or opened.store.root / "latest" / f"{result.recipe}-search"
    page, report = None, None
    with postpone_errors() as undelivered:
        page = write_search_report(result, folder)
    winner = result.get_winner()
    if winner is None:
        print_failure(result, page, options["as_json"])
        return NOT_FOUND, undelivered
    file = write_winner(opened, winner)
    records = run_winner(opened, file, runner)
    result = replace(result, test=judge_winner(records))
    with postpone_errors() as undelivered:
        page = write_search_report(result, folder)
    with postpone_errors() as kept_back:
        report = deliver_winner(opened, file, records)
    if not options["as_json"]:
        print_winner(winner, result, page, file)
    show_results(records, report, options, describe_search(result, page))
    return choose_exit_code(records), [*undelivered, *kept_back]


def find_best(opened: RecipeSearch, runner: Runner) -> SearchResult:
    from attar.cli.console import open_console
    from attar.search.run import run_search

    with open_console() as view, redirect_stdout(sys.stderr):
        return run_search(opened, view.done, runner)


def run_winner(opened: RecipeSearch, file: Path, runner: Runner) -> list[Record]:
    """Run the found recipe, which makes what the search did not."""
    from attar.cli.console import open_console

    with open_console() as view, redirect_stdout(sys.stderr):
        return runner.run_winner(opened, file, view.done)


def deliver_winner(opened: RecipeSearch, file: Path, records: list[Record]) -> Path:
    """Write the report of the found recipe, and copy its bundle."""
    from attar.cli.deliver import deliver_results

    output = opened.store.root / "latest" / file.stem
    return deliver_results(records, output, file.stem, opened.store)


def describe_search(result: SearchResult, page: Path | None) -> dict[str, Any]:
    """Return the search for ``--json``."""
    from attar.proof.ledger.ledger_json import to_json

    return {"search": to_json(result), "page": str(page) if page else None}


def print_winner(
    winner: VariantResult, result: SearchResult, page: Path | None, file: Path
) -> None:
    print_text(f"winner  {winner.title}")
    for note in result.notes:
        print_text(f"        {note}")
    if result.test and result.test.verdict != "passed":
        print_text(f"test    {result.test.verdict}: {'; '.join(result.test.reasons)}")
    print_text(f"recipe  {file}")
    print_page(page)


def print_page(page: Path | None) -> None:
    if page is not None:
        print_text(f"search  {page}")


def print_failure(result: SearchResult, page: Path | None, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(describe_search(result, page), indent=1))
        return
    closest = result.list_closest()
    click.echo(f"no variant keeps all promises on validation{'; the closest:' if closest else ''}")
    for each in closest:
        print_text(f"  {each.title}: {each.shortcoming}")
    for note in result.notes:
        print_text(note)
    print_page(page)
