"""Options that several commands share."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attar.cli.help_sections import SectionOption

if TYPE_CHECKING:
    from attar.pipeline.store.store import Store

C = TypeVar("C", bound=Callable[..., Any])
Command = Callable[..., None]
Decorator = Callable[[Command], Command]

FOLDER = click.Path(file_okay=False, path_type=Path)
STORE_FILES = ("cache", "store_trusted", "store_key")
"""Parameters that `open_store` takes beside the place."""


def open_option_store(
    context: click.Context, parameter: click.Parameter, place: str
) -> Store | None:
    """Open what ``--store`` and the options beside it name. Raises RecipeError for a wrong URL."""
    from attar.pipeline.shared.remote_files import is_url
    from attar.pipeline.shared.store import open_store

    if context.resilient_parsing:
        return None
    folder = place if is_url(place) else FOLDER.convert(place, parameter, context)
    given = (context.meta.get(f"{__name__}.{name}") for name in STORE_FILES)
    return open_store(folder, *given)


def keep_store_file(context: click.Context, parameter: click.Parameter, file: Path | None) -> None:
    """Keep it for `open_option_store`. Warn if others may change who is trusted, or sign."""
    from attar.pipeline.core.signing_keys import check_is_file_name

    check_is_file_name(file)
    if file is not None and parameter.name == "store_trusted":
        warn_of_writers(context, parameter, file)
    if file is not None and parameter.name == "store_key" and file.is_file():
        warn_of_readers(file)
    context.meta[f"{__name__}.{parameter.name}"] = file


def make_key_file_option(name: str, explanation: str) -> Callable[[C], C]:
    """Return the option ``--name FILE`` beside ``--store``; a variable may give the file, too."""
    return click.option(
        f"--{name}",
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=f"ATTAR_{name.replace('-', '_').upper()}",
        expose_value=False,
        is_eager=True,
        callback=keep_store_file,
        help=explanation,
    )


def store_options(command: C) -> C:
    """Add ``--store`` and the options beside it; the command takes a `Store`."""
    cache = click.option(
        "--cache",
        type=FOLDER,
        metavar="DIR",
        expose_value=False,
        is_eager=True,
        callback=keep_store_file,
        show_default=".attar",
        help="Folder in front of a store at a URL: what was made or fetched here.",
    )
    trusted = make_key_file_option(
        "store-trusted",
        "Public keys in PEM. Of a store at a URL only what one of them signed is taken.",
    )
    key = make_key_file_option(
        "store-key",
        "Ed25519 private key in PEM, which signs what is published in a store at a URL.",
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
    return store(cache(trusted(key(command))))


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


def warn_of_readers(key: Path) -> None:
    """Warn if others may read or write a private key."""
    from attar.pipeline.core.signing_keys import open_to_others

    if allowed := open_to_others(key):
        click.echo(
            f"warning: {key} is a private key that others may {allowed}; chmod 600 it", err=True
        )


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


def make_verbose_option(explanation: str) -> Callable[[C], C]:
    """Return the option ``-v``. `is_verbose` returns its value, so no command takes it."""
    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_keep_verbose,
        help=explanation,
    )


VERBOSE = make_verbose_option("Show the traceback of an error.")
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SLOT.FIELD=VALUE",
    help="Override a setting of the recipe by a TOML value. Repeatable.",
)
TARGET = click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    show_default="all targets",
    help="Target to work on. Repeatable.",
)
AGAINST = click.option(
    "--against",
    type=FOLDER,
    metavar="BUNDLE",
    help="Bundle in production, to be compared with on the same samples.",
)
DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device that trains and runs networks.",
)


def recipe_options(*own: Decorator) -> Decorator:
    """Return what adds RECIPE, the options of every command that takes one, and these."""

    def decorate(command: Command) -> Command:
        options: list[Decorator] = [store_options, SET, *own, JSON, VERBOSE]
        for decorator in reversed(options):
            command = decorator(command)
        return click.argument("recipe")(command)

    return decorate


run_options = recipe_options(TARGET, AGAINST, TRUSTED, DEVICE)
"""Adds RECIPE and the options of every command that plans or runs all of it."""
