"""Benchmark of a running server: closed and open loops, over HTTP or gRPC, with a bundle's golden
requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from attar.bundle import golden
from attar.bundle import opening as bundle
from attar.bundle.finished import compute_difference
from attar.bundle.manifest import MAX_TOLERANCE, Manifest
from attar.models.task import Arrays
from attar.pipeline.core.errors import AttarError
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import Facts
from attar.pipeline.keys import machine
from attar.proof.comparison import timing
from attar.serving.load.client import Address, load_trust, parse_address, read_bearer, take_turns
from attar.serving.load.engine import list_promised
from attar.serving.load.figure import Bar
from attar.serving.load.figure import draw_chart as drawn
from attar.serving.load.load import SHARE, Outcome
from attar.serving.load.load_http import Http

if TYPE_CHECKING:
    from attar.serving.load.load_grpc import Grpc

    Transport: TypeAlias = Http | Grpc

WARM = 0.1
"""Duration of the warm-up, as a share of the measurement's."""


@dataclass(frozen=True)
class LoadSpec:
    """The measurements to make."""

    batches: Sequence[int] = (1, 32)
    """Samples in a request."""
    connections: Sequence[int] = (1, 16, 64)
    """Connections of the closed loop; the open loop uses the largest number."""
    rates: Sequence[float] = ()
    """Requests a second of the open loop; if empty, 80 % of the closed loop's best rate."""
    seconds: float = 1.0
    """Duration of each measurement."""
    model: str | None = None
    """The server's name for the bundle, if it is not the bundle's own."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of every request."""
    ca: Path | None = None
    """Certificates to trust, in PEM; None: those that this machine trusts."""

    @classmethod
    def with_token(cls, token_file: Path | None, **asked: Any) -> LoadSpec:
        return cls(headers=read_bearer(token_file), **asked)


def bench_server(path: str | Path, url: str, asked: LoadSpec, trusted: Path | None = None) -> Facts:
    """Return a row of rates and latencies (microseconds) for each measurement.

    ``ended`` is the error that ended the measurements early. Raises AttarError if the server
    cannot be reached or trusted, does not know the model, or gives other answers than the bundle,
    and InvalidBundleError for an invalid bundle.
    """
    where = parse_address(url)
    with (
        bundle.open_whole(Path(path), gated=False, trusted=trusted) as opened,
        choose_transport(where, asked) as server,
    ):
        folder, manifest = opened.root, opened.manifest
        list_promised(manifest, asked.batches)
        model = asked.model or manifest.name
        requests = golden.load_requests(folder, manifest)
        facts = {
            "bundle": manifest.name,
            "model": model,
            "url": url,
            "machine": machine.describe_machine(),
        }
        for form in server.forms:
            check_answers(folder, manifest, server, form, model)
        found = measure_rows(measure_case(server, requests, model, asked))
    return {**facts, **found, "load_average": timing.read_load_average()}


def measure_rows(measurements: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows; after an error those that were measured before."""
    made: list[dict[str, Any]] = []
    try:
        made.extend(measurements)
    except AttarError as error:
        if not made:
            raise
        return {"rows": made, "ended": str(error)}
    return {"rows": made}


@contextmanager
def choose_transport(where: Address, asked: LoadSpec) -> Iterator[Transport]:
    """Open the transport of a url. Raises AttarError for invalid or unused certificates."""
    if asked.ca and not where.is_tls:
        raise AttarError(
            f"--ca is given, and the url is {where.scheme}://{where} without TLS; give https:// "
            "or grpcs://"
        )
    if where.is_grpc:
        from attar.serving.load.load_grpc import Grpc, open_event_loop

        with open_event_loop() as runner:
            yield Grpc(runner, where, asked.headers, asked.ca)
    else:
        yield Http(where, asked.headers, load_trust(asked.ca) if where.is_tls else None)


def check_answers(
    folder: Path, manifest: Manifest, server: Transport, form: str, model: str
) -> None:
    """Raise AttarError if the server does not give the answers of the bundle."""
    tensors, low = golden.read_golden(folder, manifest), manifest.ranges.get("batch", (1, 1))[0]
    requests = golden.preprocess_requests(folder, manifest, tensors)
    got = server.infer(model, {name: array[:low] for name, array in requests.items()}, form)
    for name in manifest.outputs:
        apart = (
            compute_difference(tensors[f"engine.{name}"][:low], got[name])
            if name in got
            else float("inf")
        )
        allowed = 0.0 if manifest.outputs[name].kind == "tokens" else MAX_TOLERANCE
        if not apart <= allowed:
            raise AttarError(
                f"{model!r} at {server.where} does not give this bundle's answers: {name!r} "
                f"is off by {apart:.2g} of its "
                "magnitude; give the bundle that is served there, or its name with --model"
            )


def measure_case(
    server: Transport, requests: Arrays, model: str, asked: LoadSpec
) -> Iterator[dict[str, Any]]:
    cases = [(form, batch) for form in server.forms for batch in asked.batches]
    for done, (form, batch) in enumerate(cases):
        report_progress("loading", done, len(cases), f"{form}, {batch} a request")
        messages = server.encode_requests(model, take_turns(requests, batch), form)
        about = {"form": form, "batch": batch}
        best = 0.0
        for connections in asked.connections:
            with server.open_load(messages, connections) as load:
                load.run_closed_loop(WARM * asked.seconds)
                found = load.run_closed_loop(asked.seconds)
            best = max(best, found.rate)
            yield make_row("closed", found, connections=connections, **about)
        for rate in asked.rates or ([SHARE * best] if best else []):
            with server.open_load(messages, max(asked.connections)) as load:
                yield make_row(
                    "open",
                    load.run_open_loop(rate, asked.seconds),
                    asked_rate=rate,
                    connections=max(asked.connections),
                    **about,
                )


def make_row(loop: str, found: Outcome, **about: Any) -> dict[str, Any]:
    """Return a row of the facts.

    ``rate`` is answered requests a second, ``busy`` the share of the time that the generator
    computed, ``cpu`` its processor time for each request, answered or not, in microseconds.
    """
    requests = len(found.latencies) + sum(found.errors.values())
    return {
        "loop": loop,
        **about,
        "rate": found.rate,
        "errors": dict(found.errors),
        "busy": found.busy,
        **({"cpu": found.cpu / requests * 1e6} if requests else {}),
        **found.compute_quantiles(),
    }


def format_table(facts: Facts) -> str:
    """Return the facts as a table; ``own`` is the generator's processor time for a request."""
    columns = f"{'requests/s':>10}  {'samples/s':>10}  {'p50 µs':>9}  {'p99 µs':>9}  {'own µs':>7}"
    head = f"{'loop':<6}  {'form':<6}  {'batch':>5}  {'connections':>11}  {columns}  errors"
    lines = [format_line(each) for each in facts["rows"]]
    load = f"load average {facts['load_average']:.2f}"
    where = f"{facts['model']} at {facts['url']}, {facts['machine']['cpu']}, {load}"
    limits = (
        "; the load generator was busy all the time, the server may be quicker"
        if is_saturated(facts["rows"])
        else ""
    )
    return "\n".join([head, *lines, f"{where}{limits}"])


def format_line(found: Mapping[str, Any]) -> str:
    rate = found["rate"]
    times = "  ".join(
        f"{found[name]:>9,.1f}" if name in found else f"{'-':>9}" for name in ("p50", "p99")
    )
    own = f"{found['cpu']:>7,.0f}" if "cpu" in found else f"{'-':>7}"
    errors = ", ".join(f"{count} {cause}" for cause, count in found["errors"].items()) or "none"
    about = (
        f"{found['loop']:<6}  {found['form']:<6}  {found['batch']:>5}  {found['connections']:>11}"
    )
    return f"{about}  {rate:>10,.0f}  {rate * found['batch']:>10,.0f}  {times}  {own}  {errors}"


def is_saturated(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(each["loop"] == "closed" and each["busy"] > 0.95 for each in rows)


def draw_figure(facts: Facts) -> str:
    """Return the facts as SVG. Raises AttarError if no request was answered."""
    answered = [each for each in facts["rows"] if "p50" in each]
    if not answered:
        raise AttarError("no request was answered, so there is nothing to draw")
    bars = [
        Bar(format_label(each), each["p50"], each["p99"], f"{each['rate']:,.0f} requests/s")
        for each in answered
    ]
    return drawn(f"{facts['model']} at {facts['url']}, {facts['machine']['cpu']}", bars)


def format_label(found: Mapping[str, Any]) -> str:
    kind = f"{found['connections']} connections" if found["loop"] == "closed" else "open loop"
    return f"{found['form']}, batch {found['batch']}, {kind}"
