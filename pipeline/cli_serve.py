"""The command that serves bundles."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

import click

from attar.pipeline.options import ALLOW_NATIVE, TRUSTED, VERBOSE, is_verbose

if TYPE_CHECKING:
    from attar.stages.serving.server import Server


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one of this machine."
)
@click.option("--allowed-host", metavar="NAME", multiple=True, help="Another name that it is called by; may be repeated.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="The same for gRPC.")
@click.option("--no-grpc", is_flag=True, help="Listen for HTTP alone.")
@click.option("--token-file", metavar="FILE", help="Bearer tokens, one a line; read again when it changes and on SIGHUP.")
@click.option("--model-control", is_flag=True, help="Let requests load and unload models.")
@click.option("--control-token-file", metavar="FILE", help="Tokens of those who may; others than those of --token-file.")
@click.option("--tls-cert", metavar="FILE", help="Certificate chain in PEM; speak TLS alone.")
@click.option("--tls-key", metavar="FILE", help="Its private key, unless it stands in the same file.")
@TRUSTED
@ALLOW_NATIVE
@click.option("--max-batch", type=click.IntRange(1), default=32, show_default=True, help="Rows of a batch at most.")
@click.option("--preferred", multiple=True, type=click.IntRange(1), help="A batch size to cut longer queues to; may be repeated.")
@click.option("--instances", type=click.IntRange(1, 1024), help="Engines of each model; as many as fit the cores unless given.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Of each engine; as many as it was built for unless given.")
@click.option("--queue", type=click.IntRange(1), default=1024, show_default=True, help="Requests that may wait for a model.")
@click.option(
    "--deadline", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True, help="Seconds to an answer."
)
@click.option(
    "--max-body", type=click.IntRange(1), help="Bytes of a request's body; what each model's largest needs unless given."
)
@click.option(
    "--max-bodies", type=click.IntRange(1), help="Bytes for all requests together; a quarter of the memory, 1 GiB at most."
)
@click.option("--max-header", type=click.IntRange(1), default=16 * 2**10, show_default=True, help="Bytes of line and headers.")
@click.option("--max-tensors", type=click.IntRange(1), default=64, show_default=True, help="Inputs or outputs of a request.")
@click.option("--max-elements", type=click.IntRange(1), default=2**24, show_default=True, help="Elements of a tensor.")
@click.option("--max-pixels", type=click.IntRange(1), default=50_000_000, show_default=True, help="Of a request's pictures.")
@click.option("--max-connections", type=click.IntRange(1), default=4096, show_default=True, help="Further ones are closed.")
@click.option(
    "--slow", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True, help="Seconds to send a request in."
)
@click.option(
    "--idle", type=click.FloatRange(0, min_open=True), default=75.0, show_default=True, help="Seconds without a request."
)
@click.option("--drain", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds to finish in after SIGTERM.")
@click.option("--watch", type=click.FloatRange(0), default=0.0, help="Seconds between looks for new bundles in the same folders.")
@click.option("--allow-ungated", is_flag=True, help="Serve bundles that passed no gates; every metadata answer says so.")
@click.option("--no-page", is_flag=True, help="Have no page at / on which people can try the models.")
@click.option("--access-log", is_flag=True, help="Log every request; those that are refused always are.")
@click.option("--shadow", metavar="fp32|FILE", help="Answer a sample again by the fp32 student, or by a teacher's ONNX file.")
@click.option("--shadow-rate", type=click.FloatRange(0, 1, min_open=True), default=0.01, show_default=True, help="Its share.")
@click.option("--shadow-window", type=click.IntRange(2), default=1000, show_default=True, help="Samples of the rolling numbers.")
@click.option(
    "--ready-correlation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Not ready while the rolling correlation is under it.",
)
@VERBOSE
def serve(bundles: tuple[str, ...], no_grpc: bool, no_page: bool, **chosen: Any) -> None:
    """Answer requests over HTTP and gRPC (Open Inference Protocol v2); exit code 4 when a bundle is not fit to serve.

    BUNDLE is a bundle's folder, NAME=FOLDER to serve it under another name, or a folder that holds bundles. Bundles of one name
    are versions of one model; the last one is the default.
    """
    gc.disable()  # what is loaded until it is ready stays, so looking through it for garbage finds none
    try:
        run(bundles, page=not no_page, **chosen | ({"grpc_port": None} if no_grpc else {}))
    finally:
        gc.enable()


def run(bundles: tuple[str, ...], **chosen: Any) -> None:
    """Raises UsageError for settings that do not go together, and what ``server.serve`` raises."""
    from pydantic import ValidationError

    from attar.stages.serving import logs, server
    from attar.stages.serving.repository import sources
    from attar.stages.serving.settings import Settings

    logs.to_stderr(logging.DEBUG if is_verbose(click.get_current_context()) else logging.INFO)
    try:
        settings = Settings(**chosen)
    except ValidationError as error:
        raise click.UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    server.serve(sources(bundles), settings, ready)


def ready(server: Server) -> None:
    gc.freeze()
    gc.enable()
    click.echo(f"ready on {server.addresses}")


COMMANDS = (serve,)
