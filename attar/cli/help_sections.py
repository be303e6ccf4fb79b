"""Help text in sections: the options of a command, and the commands of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

UNCUT = 1000
"""Characters of a command's summary that are shown: its whole first sentence."""


class SectionOption(click.Option):
    """An option that `SectionCommand` lists under the title of its section."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionCommand(click.Command):
    """A command whose help lists the options of each section under the section's title."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if row is not None:
                title = getattr(parameter, "section", "Options")
                sections.setdefault(title, []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class SectionGroup(click.Group):
    """A group whose help lists the commands of each section in the order they were added."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections: dict[str, Sequence[click.Command]] = {}

    def add_section(self, title: str, commands: Sequence[click.Command]) -> None:
        self.sections[title] = commands
        for command in commands:
            self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in self.commands)
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([format_summary(command, width) for command in commands])


def format_summary(command: click.Command, width: int) -> tuple[str, str]:
    """Return the name, padded to this width, and the first sentence of the command's help."""
    return (command.name or "").ljust(width), command.get_short_help_str(UNCUT)
