"""The layout of `attar --help` and `attar COMMAND --help`."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from attar.cli.help_sections import SectionCommand
from attar.cli.main import main
from attar.cli.recipe import STEPS
from attar.stages.slots import SLOTS


def read_sections(*arguments: str) -> dict[str, list[str]]:
    """Return the first word of every entry, by the title of its section."""
    result = CliRunner().invoke(main, [*arguments, "--help"], env={"COLUMNS": "300"})
    assert result.exit_code == 0
    sections: dict[str, list[str]] = {}
    for line in result.output.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            sections[line.removesuffix(":")] = []
        elif line.strip() and sections:
            list(sections.values())[-1].append(line.split()[0].removesuffix(","))
    return sections


def test_every_command_is_listed_once_in_the_order_of_use() -> None:
    sections = read_sections()
    assert [title.partition(" ")[0] for title in sections] == ["Options", "Start", "Recipe", "Recipe,", "Store", "Bundle"]
    listed = [name for title, names in sections.items() if title != "Options" for name in names]
    assert listed == list(main.commands)


def test_every_step_of_the_table_of_slots_is_a_command() -> None:
    assert {slot.step for slot in SLOTS} - {None} == STEPS.keys()


@pytest.mark.parametrize("name", list(main.commands))
def test_every_summary_and_every_option_is_a_sentence(name: str) -> None:
    command = main.commands[name]
    summary = command.get_short_help_str(1000)
    assert summary.endswith(".")
    assert not summary.endswith("...")
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert all(option.help and option.help.endswith(".") for option in options), [option.help for option in options]


@pytest.mark.parametrize(
    ("name", "lacking"),
    [("fetch", {"against", "trusted", "device", "targets"}), ("search", {"against", "trusted"}), ("plan", set())],
)
def test_a_command_lists_no_option_that_means_nothing_to_it(name: str, lacking: set[str]) -> None:
    whole = {parameter.name for parameter in main.commands["report"].params} - {"output"}
    own = {parameter.name for parameter in main.commands[name].params}
    assert whole - own == lacking


@pytest.mark.parametrize(("name", "logs"), [("serve", True), ("run", False)])
def test_only_what_logs_says_that_it_logs_more(name: str, logs: bool) -> None:
    told = CliRunner().invoke(main, [name, "--help"], env={"COLUMNS": "300"}).output
    assert ("Log at debug level, and show the traceback of an error." in told) == logs


def test_every_option_of_serve_is_in_a_section_of_its_own_kind() -> None:
    sections = read_sections("serve")
    assert isinstance(main.commands["serve"], SectionCommand)
    assert list(sections)[:-1] == ["Listen", "Access", "Batching", "Limits", "Timeouts", "Operation", "Shadow"]
    assert sections["Options"] == ["-v", "-h"]
    assert "--deadline" in sections["Timeouts"]
