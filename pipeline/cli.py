"""The command line. It joins the engine with the stages; everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
import traceback
from contextlib import redirect_stdout
from typing import Any

import click

from attar.pipeline import cli_bundle, cli_new, cli_recipe, cli_serve, cli_store, team
from attar.pipeline.errors import AttarError
from attar.pipeline.options import is_verbose
from attar.pipeline.team import Broken


class Loud(click.Group):
    """Prints an AttarError as one message and exits with its code; ``-v`` adds the traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Of the processes that torchrun started one acts; the others join it inside the stages that are made together."""
        if not team.started():
            return super().main(*args, **kwargs)
        from attar.stages.distillation.processes import assembled

        with assembled() as made:
            return super().main(*args, **kwargs) if made.leads else self.follow(made)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (AttarError, Broken) as error:
            tell(error, verbose=is_verbose(ctx))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command goes on from what is finished", err=True)
            ctx.exit(130)

    def follow(self, member: team.Team) -> None:
        """What user code prints is no part of the result here either."""
        try:
            with redirect_stdout(sys.stderr):
                member.follow()
        except Broken as error:
            tell(error, verbose=self.asks_for_traceback(sys.argv[1:]))
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(130)

    def asks_for_traceback(self, arguments: list[str]) -> bool:
        """Whether a command line that another process of the team acts on has ``-v``."""
        context = click.Context(self)
        name, command, rest = self.resolve_command(context, arguments)
        if command is None:
            return False
        return is_verbose(command.make_context(name, rest, context, resilient_parsing=True))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the work, not of the alphabet."""
        return list(self.commands)


def tell(error: AttarError | Broken, *, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    click.echo(f"error: {error}", err=True)


@click.group(cls=Loud, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="attar", prog_name="attar")
def main() -> None:
    """From knowledge distillation to an optimized inference artifact, proven at every hop."""


for _command in (cli_new.new, *cli_recipe.COMMANDS, *cli_bundle.COMMANDS, *cli_serve.COMMANDS, *cli_store.COMMANDS):
    main.add_command(_command)
