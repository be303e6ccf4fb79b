"""The command line. Each command imports heavy modules only when it runs."""

from __future__ import annotations

import errno
import sys
import traceback
from contextlib import redirect_stdout
from io import TextIOWrapper
from typing import Any

import click

from attar.cli import bundle, new, recipe, search, serve, store
from attar.cli.help_sections import SectionGroup
from attar.cli.options import is_verbose
from attar.cli.plain_text import print_text
from attar.pipeline import team
from attar.pipeline.core.errors import AttarError, StoreError
from attar.pipeline.team import TeamError

INTERRUPTED = 130
"""The exit code of a process that SIGINT ended: 128 and the signal's number."""


class ErrorGroup(SectionGroup):
    """Commands that report an AttarError as one message, and exit with its code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command. Of the processes that torchrun started, only rank 0 does; the others
        follow it."""
        escape_unknown_characters()
        if not team.is_started_in_team():
            return super().main(*args, **kwargs)
        from attar.stages.learning.processes import join_process_group

        try:
            with join_process_group() as member:
                return super().main(*args, **kwargs) if member.leads else self.follow(member)
        except AttarError as error:  # of joining: what the command raises ends inside
            print_error(error, verbose=False)
            sys.exit(error.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (AttarError, TeamError) as error:
            print_error(error, verbose=is_verbose(ctx))
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has gone: click ends quietly
                raise
            print_error(describe_refusal(error), verbose=is_verbose(ctx))
            ctx.exit(StoreError.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command continues from what is finished", err=True)
            ctx.exit(INTERRUPTED)

    def follow(self, member: team.Team) -> None:
        """Join rank 0 in its distributed stages. What user code prints is not part of the
        result."""
        try:
            with redirect_stdout(sys.stderr):
                member.follow_leader()
        except TeamError as error:
            print_error(error, verbose=self.asks_for_traceback(sys.argv[1:]))
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    def asks_for_traceback(self, arguments: list[str]) -> bool:
        """Whether these arguments, which rank 0 runs, have ``-v``."""
        context = click.Context(self)
        name, command, rest = self.resolve_command(context, arguments)
        if command is None:
            return False
        return is_verbose(command.make_context(name, rest, context, resilient_parsing=True))


def escape_unknown_characters() -> None:
    r"""Write what the encoding of the output lacks as ``\u2212``: a run that is done does not end
    in an error because a terminal knows no minus sign."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_error(error: AttarError | TeamError, *, verbose: bool) -> None:
    if verbose:
        print_text(traceback.format_exc().rstrip(), err=True)
    print_text(f"error: {error}", err=True)


def describe_refusal(error: OSError) -> StoreError:
    """Return what the system refused. Of a full standard output, for example, it names no file."""
    place = f" ({error.filename})" if error.filename else ""
    return StoreError(
        f"{error.strerror or error}{place}; is the disk full, or the file gone? -v shows where"
    )


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=ErrorGroup, context_settings=SETTINGS)
@click.version_option(package_name="attar", prog_name="attar")
def main() -> None:
    """Distill a network, optimize it for inference, and prove each step of the way.

    `attar COMMAND --help` describes a command.
    """


main.add_section("Start", (new.new, store.doctor))
main.add_section(
    "Recipe (a TOML file, or the name of a shipped recipe)",
    (recipe.plan, recipe.run, search.search, recipe.fetch, recipe.report, store.schema),
)
main.add_section("Recipe, up to and including one step", recipe.STEP_COMMANDS)
main.add_section("Store", (store.ls, store.show, store.gc))
main.add_section("Bundle", (bundle.check, bundle.sign, bundle.finish, bundle.bench, serve.serve))
