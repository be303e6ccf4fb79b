"""Options that several commands share."""

from __future__ import annotations

import stat
from pathlib import Path

import click

STORE = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default=".attar",
    show_default=True,
    envvar="ATTAR_STORE",
    help="Where artifacts are kept.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output and nothing else there.")
REQUIRE_ALL = click.option("--require-all", is_flag=True, help="A target that was not run here counts as failed: exit code 3.")


def warn_of_writers(context: click.Context, parameter: click.Parameter, keys: Path | None) -> Path | None:
    """Who may write the file of keys decides who is trusted."""
    if keys is not None and keys.is_file() and keys.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        click.echo(f"warning: others may write {keys}, so they decide who is trusted; chmod go-w it", err=True)
    return keys


TRUSTED = click.option(
    "--trusted",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=warn_of_writers,
    help="Public keys in PEM; a bundle must be signed by one of them, see `attar sign`.",
)
ALLOW_NATIVE = click.option(
    "--allow-native",
    is_flag=True,
    help="Load an engine that is native code (TensorRT, OpenVINO) from a bundle that no --trusted key signed.",
)


def is_verbose(context: click.Context) -> bool:
    """Whether the command that this context is of, or the one inside it, was given ``-v``."""
    return bool(context.meta.get(__name__))


def _keep_verbose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[__name__] = value


VERBOSE = click.option(
    "-v", "--verbose", is_flag=True, expose_value=False, callback=_keep_verbose, help="Show the traceback of an error."
)
"""Its value is asked for with ``is_verbose``, for it is the same to every command."""
