"""The commands that take a bundle: check it, sign it, time it, and finish one whose engine the making machine could not run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from attar.pipeline.errors import AttarError
from attar.pipeline.options import ALLOW_NATIVE, JSON, STORE, TRUSTED, VERBOSE

BUNDLE = click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command()
@BUNDLE
@TRUSTED
@ALLOW_NATIVE
@JSON
@VERBOSE
def check(bundle: Path, trusted: Path | None, allow_native: bool, as_json: bool) -> None:
    """Checksums, machine, verdict and golden requests of a bundle; exit code 4 when it is not fit to serve.

    An engine that is native code is not loaded without --trusted or --allow-native; then the line says so, and its graph alone
    answers the golden requests.
    """
    from attar.stages import bundle as bundles

    facts = bundles.check(bundle, trusted, allow_native=allow_native)
    found = "is fit to serve" if facts["engine"] == bundles.LOADED else "is whole and passed its gates"
    click.echo(json.dumps(facts, indent=1) if as_json else f"{bundle} {found}: " + _line(facts))


@click.command()
@BUNDLE
@click.option("--key", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Ed25519 private key in PEM.")
@JSON
@VERBOSE
def sign(bundle: Path, key: Path, as_json: bool) -> None:
    """Write SHA256SUMS.sig into a bundle that is whole and passed its gates; exit code 4 when it is not.

    `openssl genpkey -algorithm ed25519 -out private.pem` makes a key, `openssl pkey -in private.pem -pubout -out public.pem` its
    public half, for --trusted.
    """
    from attar.stages.sign import open_to_others, sign

    facts = sign(bundle, key)
    if allowed := open_to_others(key):
        click.echo(f"warning: {key} is a private key that others may {allowed}; chmod 600 it", err=True)
    click.echo(json.dumps(facts, indent=1) if as_json else f"{bundle} is signed: " + _line(facts))


@click.command()
@BUNDLE
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(1),
    default=(1, 32),
    show_default=True,
    help="Samples a call; may be repeated.",
)
@click.option("--seconds", type=click.FloatRange(0.05), default=1.0, show_default=True, help="Time for each measurement.")
@click.option("--rate", "rates", multiple=True, type=click.FloatRange(0, min_open=True), help="Open loop: requests a second.")
@click.option(
    "--url", help="Of a running server, SCHEME://HOST:PORT: http, https, grpc or grpcs; without it the engine is timed."
)
@click.option("--model", help="The server's name for the bundle, where it is not the bundle's own.")
@click.option(
    "--connections", multiple=True, type=click.IntRange(1), default=(1, 16, 64), show_default=True, help="To the server."
)
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The server's bearer token.")
@click.option(
    "--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM: who signed the server's certificate."
)
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), help="Where to draw the latencies, as SVG.")
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
    """Latency and throughput on this machine, against the bundle's fp32 student; with --url those of a server that has it.

    In a closed loop, and at random times in an open one, there at 80 % of the closed loop's best unless --rate is given.
    """
    from attar.stages import bench as engines
    from attar.stages.serving import bench as servers

    if url is None:
        if ignored := [f"--{name.replace('_', '-')}" for name in ("model", "token_file", "ca") if server[name]]:
            raise click.UsageError(f"{', '.join(ignored)}: of a server; give its --url")
        facts = engines.bench(bundle, batches, seconds, rates, trusted=trusted, allow_native=allow_native)
    elif allow_native:
        raise click.UsageError("--allow-native: the server at --url loaded the engine, nothing is loaded here; leave it out")
    else:
        facts = servers.bench(bundle, url, servers.Asked.of(batches=batches, seconds=seconds, rates=rates, **server), trusted)
    shown = engines if url is None else servers
    if figure:
        figure.write_text(shown.figure(facts), encoding="utf-8")
    click.echo(json.dumps(facts, indent=1) if as_json else shown.table(facts))
    if "ended" in facts:
        raise AttarError(facts["ended"])


@click.command()
@BUNDLE
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The new bundle's folder.")
@click.option("--recipe", metavar="RECIPE", help="Run the recipe that made the bundle, to prove the engine on its test split.")
@TRUSTED
@STORE
@JSON
@VERBOSE
def finish(bundle: Path, output: Path, recipe: str | None, trusted: Path | None, store: Path, as_json: bool) -> None:
    """Build here the engine that the making machine could not run, and compare it; exit code 4 where this machine cannot."""
    from attar.stages import finish as finishing

    facts = finishing.finish(bundle, output, trusted) if recipe is None else _rerun(bundle, output, recipe, store, trusted)
    click.echo(json.dumps(facts, indent=1) if as_json else f"{output} is fit to serve: " + _line(facts))


def _rerun(bundle: Path, output: Path, recipe: str, store: Path, trusted: Path | None) -> Mapping[str, Any]:
    from attar.pipeline.console import live
    from attar.stages.rerun import rerun

    with live() as view, redirect_stdout(sys.stderr):  # what user code prints is no part of the result
        return rerun(bundle, output, recipe, store, view.done, trusted)


def _line(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if isinstance(value, str | int | float))


COMMANDS = (check, sign, bench, finish)
