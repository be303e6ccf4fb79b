"""Options that several commands share."""

from __future__ import annotations

import stat
from pathlib import Path

import click

from attar.cli.help_sections import SectionOption

STORE = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    default=".attar",
    show_default=True,
    envvar="ATTAR_STORE",
    help="Store of the artifacts; the variable ATTAR_STORE sets it too.",
)
JSON = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object to standard output and nothing else.",
)
REQUIRE_ALL = click.option(
    "--require-all",
    is_flag=True,
    help="Exit with code 3 also if a target was not run on this machine.",
)


def warn_of_writers(
    context: click.Context, parameter: click.Parameter, keys: Path | None
) -> Path | None:
    """Warn if others may write the file of keys: they decide who is trusted."""
    if keys is not None and keys.is_file() and keys.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        warning = f"warning: others may write {keys}, so they decide who is trusted; chmod go-w it"
        click.echo(warning, err=True)
    return keys


TRUSTED = click.option(
    "--trusted",
    cls=SectionOption,
    section="Access",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=warn_of_writers,
    help="Public keys in PEM. One of them must have signed the bundle; see `attar sign`.",
)
ALLOW_NATIVE = click.option(
    "--allow-native",
    cls=SectionOption,
    section="Access",
    is_flag=True,
    help="Load an engine that is native code (TensorRT, OpenVINO) although no --trusted key signed "
    "its bundle.",
)


def is_verbose(context: click.Context) -> bool:
    """Whether this command, or the one that it runs, was given ``-v``."""
    return bool(context.meta.get(__name__))


def _keep_verbose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[__name__] = value


VERBOSE = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_keep_verbose,
    help="Show the traceback of an error.",
)
"""`is_verbose` returns its value: it means the same to every command, so none takes it."""
