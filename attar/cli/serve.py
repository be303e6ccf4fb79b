"""The command that serves bundles."""

from __future__ import annotations

import gc
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from attar.cli.help_sections import SectionCommand, SectionOption
from attar.cli.options import ALLOW_NATIVE, TRUSTED, is_verbose, make_verbose_option

if TYPE_CHECKING:
    from attar.serving.server import Server

PORT = click.IntRange(0, 65535)
COUNT = click.IntRange(1)
ENGINE_COUNT = click.IntRange(1, 1024)
SECONDS = click.FloatRange(0)
POSITIVE_SECONDS = click.FloatRange(0, min_open=True)

option = partial(click.option, cls=SectionOption, show_default=True)
listen_option = partial(option, section="Listen")
access_option = partial(option, section="Access")
batching_option = partial(option, section="Batching")
limit_option = partial(option, section="Limits")
timeout_option = partial(option, section="Timeouts")
operation_option = partial(option, section="Operation")
shadow_option = partial(option, section="Shadow")


@click.command(cls=SectionCommand)
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
@listen_option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    help="Address to listen on; 0.0.0.0 listens on every address of this machine.",
)
@listen_option(
    "--allowed-host",
    metavar="NAME",
    multiple=True,
    help="Further host name that HTTP requests may use for the server. Repeatable.",
)
@listen_option(
    "--http-port",
    type=PORT,
    metavar="PORT",
    default=8000,
    help="Port for HTTP; 0 picks a free port.",
)
@listen_option(
    "--grpc-port",
    type=PORT,
    metavar="PORT",
    default=8001,
    help="Port for gRPC; 0 picks a free port.",
)
@listen_option("--no-grpc", is_flag=True, help="Listen for HTTP only.")
@access_option(
    "--token-file",
    metavar="FILE",
    help="Bearer tokens, one per line. Read again when the file changes and on SIGHUP.",
)
@access_option("--model-control", is_flag=True, help="Let requests load and unload models.")
@access_option(
    "--control-token-file",
    metavar="FILE",
    help="Bearer tokens that may load and unload models; others than those in --token-file.",
)
@access_option(
    "--tls-cert",
    metavar="FILE",
    help="Certificate chain in PEM. With it, the server accepts TLS only.",
)
@access_option(
    "--tls-key",
    metavar="FILE",
    show_default="in the certificate's file",
    help="Private key of the certificate in PEM.",
)
@TRUSTED
@ALLOW_NATIVE
@batching_option(
    "--max-batch", type=COUNT, metavar="N", default=32, help="Maximum number of samples in a batch."
)
@batching_option(
    "--preferred",
    multiple=True,
    type=COUNT,
    metavar="N",
    help="Preferred batch size: a longer queue is cut to it. Repeatable.",
)
@batching_option(
    "--instances",
    type=ENGINE_COUNT,
    metavar="N",
    show_default="as many as fit the cores",
    help="Engines per model.",
)
@batching_option(
    "--threads",
    type=ENGINE_COUNT,
    metavar="N",
    show_default="as the engine was built",
    help="Intra-op threads per engine.",
)
@batching_option(
    "--queue",
    type=COUNT,
    metavar="N",
    default=1024,
    help="Maximum waiting requests per model; further requests get status 503.",
)
@limit_option(
    "--max-body",
    type=COUNT,
    metavar="BYTES",
    show_default="what the model's largest request needs",
    help="Maximum size of a request body.",
)
@limit_option(
    "--max-bodies",
    type=COUNT,
    metavar="BYTES",
    show_default="a quarter of the memory, at most 1 GiB",
    help="Maximum memory of all unanswered requests together.",
)
@limit_option(
    "--max-header",
    type=COUNT,
    metavar="BYTES",
    default=16 * 2**10,
    help="Maximum size of a request line and its headers.",
)
@limit_option(
    "--max-tensors",
    type=COUNT,
    metavar="N",
    default=64,
    help="Maximum number of inputs, and of outputs, in a request.",
)
@limit_option(
    "--max-elements",
    type=COUNT,
    metavar="N",
    default=2**24,
    help="Maximum number of elements in a tensor.",
)
@limit_option(
    "--max-pixels",
    type=COUNT,
    metavar="N",
    default=50_000_000,
    help="Maximum number of pixels in all pictures of a request.",
)
@limit_option(
    "--max-connections",
    type=COUNT,
    metavar="N",
    default=4096,
    help="Maximum number of open connections; beyond it HTTP closes the one silent longest, gRPC "
    "refuses the newest.",
)
@timeout_option(
    "--deadline",
    type=POSITIVE_SECONDS,
    metavar="SECONDS",
    default=30.0,
    help="Maximum time from arrival to response.",
)
@timeout_option(
    "--slow",
    type=POSITIVE_SECONDS,
    metavar="SECONDS",
    default=20.0,
    help="Maximum time a client may take to send a request or read a response.",
)
@timeout_option(
    "--idle",
    type=POSITIVE_SECONDS,
    metavar="SECONDS",
    default=75.0,
    help="Time after which a connection without a request is closed.",
)
@timeout_option(
    "--drain",
    type=SECONDS,
    metavar="SECONDS",
    default=30.0,
    help="Maximum time to finish open requests after SIGTERM.",
)
@operation_option(
    "--watch",
    type=SECONDS,
    metavar="SECONDS",
    default=0.0,
    help="Interval between checks for new bundles in the same folders; 0 checks never.",
)
@operation_option(
    "--allow-ungated",
    is_flag=True,
    help="Serve bundles that passed no gates; every metadata response says so.",
)
@operation_option(
    "--no-page", is_flag=True, help="Omit the page at /, where people can try the models."
)
@operation_option(
    "--access-log", is_flag=True, help="Log every request; rejected requests are always logged."
)
@shadow_option(
    "--shadow",
    metavar="fp32|FILE",
    help="Second model for a sample of the requests: the fp32 student, or a teacher's ONNX file.",
)
@shadow_option(
    "--shadow-rate",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    default=0.01,
    help="Share of the requests that the shadow also answers.",
)
@shadow_option(
    "--shadow-window",
    type=click.IntRange(2),
    metavar="N",
    default=1000,
    help="Number of samples behind the rolling metrics.",
)
@shadow_option(
    "--ready-correlation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="R",
    help="The server is not ready while the rolling correlation is below this.",
)
@make_verbose_option("Log at debug level, and show the traceback of an error.")
def serve(bundles: tuple[str, ...], no_grpc: bool, no_page: bool, **chosen: Any) -> None:
    """Serve bundles over HTTP and gRPC (Open Inference Protocol v2).

    BUNDLE is a bundle's folder, NAME=FOLDER to serve it under another name, or a folder that
    holds bundles. Bundles of one name are versions of one model; the last one is the default.

    Exit code 4 if a bundle is not fit to serve.
    """
    gc.disable()  # everything that is loaded before the server is ready stays in memory
    try:
        run_server(bundles, page=not no_page, **chosen | ({"grpc_port": None} if no_grpc else {}))
    finally:
        gc.enable()


def run_server(bundles: tuple[str, ...], **chosen: Any) -> None:
    """Serve until a signal ends it. Raises UsageError for settings that exclude each other."""
    from pydantic import ValidationError

    from attar.serving import server
    from attar.serving.core import logs
    from attar.serving.core.settings import Settings
    from attar.serving.models.sources import parse_sources

    logs.to_stderr(logging.DEBUG if is_verbose(click.get_current_context()) else logging.INFO)
    try:
        settings = Settings(**chosen)
    except ValidationError as error:
        raise click.UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    server.serve(parse_sources(bundles), settings, announce_ready)


def announce_ready(server: Server) -> None:
    gc.freeze()
    gc.enable()
    click.echo(f"ready on {server.addresses}")
