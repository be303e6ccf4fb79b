"""Commands that take a bundle."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from attar.cli.options import (
    ALLOW_NATIVE,
    JSON,
    TRUSTED,
    VERBOSE,
    store_options,
    warn_of_readers,
)
from attar.cli.plain_text import print_text
from attar.pipeline.core.disk import explain_disk_errors
from attar.pipeline.core.errors import AttarError

if TYPE_CHECKING:
    from attar.pipeline.store.store import Store

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
BUNDLE = click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command()
@BUNDLE
@TRUSTED
@ALLOW_NATIVE
@JSON
@VERBOSE
def check(bundle: Path, trusted: Path | None, allow_native: bool, as_json: bool) -> None:
    """Verify checksums, signature, machine, verdict and golden requests.

    An engine that is native code is loaded only with --trusted or --allow-native. Without them,
    the bundle's graph alone answers the golden requests, and the output says so.

    Exit code 4 if the bundle is not fit to serve.
    """
    from attar.bundle import opening as bundles

    facts = bundles.check_bundle(bundle, trusted, allow_native=allow_native)
    is_loaded = facts["engine"] == bundles.LOADED
    state = "is fit to serve" if is_loaded else "is whole and passed its gates"
    print_facts(facts, f"{bundle} {state}", as_json)


@click.command()
@BUNDLE
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ed25519 private key in PEM.",
)
@JSON
@VERBOSE
def sign(bundle: Path, key: Path, as_json: bool) -> None:
    """Sign a bundle that passed its gates.

    Writes SHA256SUMS.sig into the bundle. `openssl genpkey -algorithm ed25519 -out private.pem`
    creates a key, and `openssl pkey -in private.pem -pubout -out public.pem` writes its public
    half, for --trusted.

    Exit code 4 if the bundle was changed or did not pass its gates.
    """
    from attar.bundle.sign import sign_bundle

    facts = sign_bundle(bundle, key)
    warn_of_readers(key)
    print_facts(facts, f"{bundle} is signed", as_json)


@click.command()
@BUNDLE
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(1),
    metavar="N",
    default=(1, 32),
    show_default=True,
    help="Samples per call. Repeatable.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.05),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Duration of each measurement.",
)
@click.option(
    "--rate",
    "rates",
    multiple=True,
    type=click.FloatRange(0, min_open=True),
    metavar="RATE",
    show_default="80 % of the closed loop's best",
    help="Requests per second in the open loop. Repeatable.",
)
@click.option(
    "--url",
    metavar="URL",
    show_default="none, the engine is measured",
    help="Server to measure, SCHEME://HOST:PORT with http, https, grpc or grpcs.",
)
@click.option(
    "--model",
    metavar="NAME",
    show_default="the bundle's own",
    help="The server's name for the bundle.",
)
@click.option(
    "--connections",
    multiple=True,
    type=click.IntRange(1),
    metavar="N",
    default=(1, 16, 64),
    show_default=True,
    help="Connections to the server. Repeatable.",
)
@click.option("--token-file", type=FILE, metavar="FILE", help="Bearer token of the server.")
@click.option(
    "--ca",
    type=FILE,
    metavar="FILE",
    help="Certificate authority of the server's certificate, in PEM.",
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="SVG file to draw the latencies into.",
)
@TRUSTED
@ALLOW_NATIVE
@JSON
@VERBOSE
def bench(
    bundle: Path,
    batches: tuple[int, ...],
    seconds: float,
    rates: tuple[float, ...],
    url: str | None,
    figure: Path | None,
    trusted: Path | None,
    allow_native: bool,
    as_json: bool,
    **server: Any,
) -> None:
    """Measure latency and throughput of an engine or of a server.

    Without --url, the bundle's engine is measured against its fp32 student on this machine. With
    it, a server that serves the bundle is measured. A closed loop sends the next request after
    the response, an open loop sends requests at random times.
    """
    if figure and not figure.parent.is_dir():
        raise click.UsageError(
            f"--figure {figure}: there is no folder {figure.parent}; make it, or name another file"
        )
    from attar.serving.load import engine as engines
    from attar.serving.load import server as servers

    if url is None:
        check_unused("model", "connections", "token_file", "ca")
        facts = engines.bench_engine(
            bundle, batches, seconds, rates, trusted=trusted, allow_native=allow_native
        )
    elif allow_native:
        raise click.UsageError(
            "--allow-native: the server at --url loaded the engine, nothing is loaded here; leave "
            "it out"
        )
    else:
        facts = servers.bench_server(
            bundle,
            url,
            servers.LoadSpec.with_token(batches=batches, seconds=seconds, rates=rates, **server),
            trusted,
        )
    shown = engines if url is None else servers
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        print_text(shown.format_table(facts))
    if figure:  # after what was measured is told, since a disk may be full
        with explain_disk_errors(figure, "--figure"):
            figure.write_text(shown.draw_figure(facts), encoding="utf-8")
    if "ended" in facts:
        raise AttarError(facts["ended"])


def check_unused(*names: str) -> None:
    """Raises UsageError if an option that is for measuring a server was given without one."""
    source = click.get_current_context().get_parameter_source
    given = [name for name in names if source(name) is not ParameterSource.DEFAULT]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        verb = "is" if len(given) == 1 else "are"
        raise click.UsageError(f"{options} {verb} for measuring a server; add --url")


@click.command()
@BUNDLE
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the new bundle.",
)
@click.option(
    "--recipe",
    metavar="RECIPE",
    help="Recipe that made the bundle. It runs again, to prove the engine on the test split.",
)
@TRUSTED
@store_options
@JSON
@VERBOSE
def finish(
    bundle: Path,
    output: Path,
    recipe: str | None,
    trusted: Path | None,
    store: Store,
    as_json: bool,
) -> None:
    """Build on this machine the engine that a bundle still lacks.

    The engine is compared with the bundle's graph. Exit code 4 if this machine cannot run it.
    """
    from attar.bundle import finish as finishing

    if recipe is None:
        facts = finishing.finish_bundle(bundle, output, trusted)
    else:
        facts = rerun_with_progress(bundle, output, recipe, store, trusted)
    print_facts(facts, f"{output} is fit to serve", as_json)


def rerun_with_progress(
    bundle: Path, output: Path, recipe: str, store: Store, trusted: Path | None
) -> Mapping[str, Any]:
    from attar.cli.console import open_console
    from attar.cli.finish_recipe import rerun_recipe

    # What user code prints is no part of the result.
    with open_console() as view, redirect_stdout(sys.stderr):
        return rerun_recipe(bundle, output, recipe, store, view.done, trusted)


def print_facts(facts: Mapping[str, Any], title: str, as_json: bool) -> None:
    """Print facts as JSON, or the simple ones in a line after the title."""
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    simple = {name: fact for name, fact in facts.items() if isinstance(fact, str | int | float)}
    print_text(f"{title}: " + ", ".join(f"{name} {fact}" for name, fact in simple.items()))
