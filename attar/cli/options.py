"""Options that several commands share."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attar.cli.help_sections import SectionOption

if TYPE_CHECKING:
    from attar.pipeline.core.store import Store

C = TypeVar("C", bound=Callable[..., Any])

FOLDER = click.Path(file_okay=False, path_type=Path)


def open_option_store(
    context: click.Context, parameter: click.Parameter, place: str
) -> Store | None:
    """Open what ``--store`` and ``--cache`` name. Raises RecipeError for a wrong URL."""
    from attar.pipeline.core.remote_files import is_url
    from attar.pipeline.core.shared_store import open_store

    if context.resilient_parsing:
        return None
    folder = place if is_url(place) else FOLDER.convert(place, parameter, context)
    return open_store(folder, context.meta.get("cache"))


def keep_cache(context: click.Context, parameter: click.Parameter, cache: Path | None) -> None:
    context.meta["cache"] = cache


def store_options(command: C) -> C:
    """Add ``--store`` and ``--cache``; the command takes a `Store`."""
    cache = click.option(
        "--cache",
        type=FOLDER,
        metavar="DIR",
        expose_value=False,
        is_eager=True,
        callback=keep_cache,
        show_default=".attar",
        help="Folder in front of a store at a URL: what was made or fetched here.",
    )
    store = click.option(
        "--store",
        metavar="DIR|URL",
        default=".attar",
        show_default=True,
        envvar="ATTAR_STORE",
        callback=open_option_store,
        help="Store of the artifacts: a folder, or s3://BUCKET/PREFIX, gs://, az:// or file:// for "
        "several machines; the variable ATTAR_STORE sets it too.",
    )
    return store(cache(command))


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
