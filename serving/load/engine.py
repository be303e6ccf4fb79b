"""Benchmark of a bundle's engine on this machine, against its fp32 student."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from attar.bundle import engines as bundle_engines
from attar.bundle import golden
from attar.bundle import opening as bundle
from attar.bundle.manifest import Manifest
from attar.models.task import Arrays, Predict
from attar.pipeline.core.errors import AttarError
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import Facts
from attar.pipeline.keys import machine
from attar.proof.comparison import timing
from attar.serving.load.figure import Bar
from attar.serving.load.figure import draw_chart as drawn
from attar.serving.load.load import SHARE
from attar.serving.load.schedule import Poisson

ROUNDS = 100_000  # the time decides
SHOWN = {"engine": "engine", "student_fp32": "student fp32"}
"""The models that are timed, and their names in the table."""


def bench_engine(
    path: str | Path,
    batches: Sequence[int] = (1, 32),
    seconds: float = 3.0,
    rates: Sequence[float] = (),
    *,
    trusted: Path | None = None,
    allow_native: bool = False,
) -> Facts:
    """Return latency (microseconds a call) and throughput (samples a second) on one core.

    The models take turns. Then the engine alone runs in an open loop, see `open_engines`, at each
    of ``rates`` (samples a second; 80 % of the smallest batches' rate if empty). Each batch size
    and rate takes about ``seconds``. ``trusted`` and ``allow_native``: see ``open_bundle``.
    Raises InvalidBundleError for a bundle that is invalid or not for this machine, and AttarError
    for a batch size that it does not promise.
    """
    with ExitStack() as stack:
        found = stack.enter_context(
            bundle.open_verified(Path(path), trusted=trusted, allow_native=allow_native)
        )
        folder, manifest = found.root, found.manifest
        list_promised(manifest, batches)
        facts: dict[str, Any] = {
            "bundle": manifest.name,
            "machine": machine.describe_machine(),
            "threads": 1,
            "batches": {},
        }
        engine = bundle_engines.open_bundle_engines(
            folder, manifest, threads=1, allow_native=found.trusts_native
        )
        reference = bundle_engines.open_reference(folder, manifest, threads=1)
        models: dict[str, Predict] = {
            "engine": stack.enter_context(engine),
            "student_fp32": stack.enter_context(reference),
        }
        requests = golden.load_requests(folder, manifest)
        facts["cpu"] = stack.enter_context(timing.pin_to_core())
        for done, batch in enumerate(batches):
            report_progress("timing", done, len(batches), f"batch {batch}")
            facts["batches"][str(batch)] = time_batch(models, requests, batch, seconds)
        slowest = facts["batches"][str(min(batches))]["engine"]["throughput"]
        facts["open"] = open_engines(
            models["engine"], requests, rates or [SHARE * slowest], batches, seconds
        )
    return {**facts, "load_average": timing.read_load_average()}


def time_batch(
    models: dict[str, Predict], requests: Arrays, batch: int, seconds: float
) -> dict[str, Any]:
    inputs = {name: array[np.arange(batch) % len(array)] for name, array in requests.items()}
    times = timing.time_interleaved(
        {name: partial(model, inputs) for name, model in models.items()}, ROUNDS, seconds
    )
    summaries = {name: timing.summarize_times(taken, batch) for name, taken in times.items()}
    return {
        **{name: asdict(summary) for name, summary in summaries.items()},
        "rounds": len(times["engine"]),
        "speedup": summaries["student_fp32"].p50 / summaries["engine"].p50,
    }


def list_promised(manifest: Manifest, batches: Sequence[int]) -> None:
    """Raise AttarError for a batch size that the bundle does not promise."""
    low, high = manifest.ranges.get("batch", (1, 1))
    if beyond := [batch for batch in batches if not low <= batch <= high]:
        raise AttarError(
            f"{manifest.name} promises batches of {low} to {high}, not "
            f"{', '.join(map(str, beyond))}"
        )


def open_engines(
    engine: Predict,
    requests: Arrays,
    rates: Sequence[float],
    batches: Sequence[int],
    seconds: float,
) -> list[dict[str, float]]:
    """Return the facts of an open loop: samples arrive at random times, and all that have arrived
    make a batch. Latency counts from a sample's arrival.

    The difference to a server's latency is the server's own cost.
    """
    made = []
    for rate in rates:
        start = time.perf_counter()
        taken = time_arrivals(engine, requests, batches, Poisson(start, seconds, rate))
        throughput = len(taken) / (time.perf_counter() - start)
        p50, p99 = np.percentile(taken, [50, 99]) * 1e6
        made.append(
            {"asked_rate": rate, "throughput": throughput, "p50": float(p50), "p99": float(p99)}
        )
    return made


def time_arrivals(
    engine: Predict, requests: Arrays, batches: Sequence[int], schedule: Poisson
) -> list[float]:
    """Return seconds from arrival to answer; batches are filled up to the smallest allowed."""
    taken: list[float] = []
    with timing.pause_collection():
        while not schedule.is_over(now := time.perf_counter()):
            if waited := list(islice(iter(partial(schedule.take_due, now), None), max(batches))):
                rows = max(len(waited), min(batches))
                engine(
                    {name: array[np.arange(rows) % len(array)] for name, array in requests.items()}
                )
                ended = time.perf_counter()
                taken += [ended - arrived for arrived in waited]
    return taken


def format_table(facts: Facts) -> str:
    """Return the facts as a table, one line for each batch size and model."""
    head = f"{'batch':>5}  {'model':<12}  {'p50 µs':>9}  {'p99 µs':>9}  {'samples/s':>10}"
    lines = [
        make_row(batch, shown, found[model])
        for batch, found in facts["batches"].items()
        for model, shown in SHOWN.items()
    ]
    gains = ", ".join(
        f"{found['speedup']:.2f} at batch {batch}" for batch, found in facts["batches"].items()
    )
    where = f"{facts['machine']['cpu']}, one thread, load average {facts['load_average']:.2f}"
    opens = [
        f"open loop, {each['asked_rate']:,.0f} samples/s asked for, {each['throughput']:,.0f} "
        "answered: "
        f"p50 {each['p50']:,.1f} µs, p99 {each['p99']:,.1f} µs from arrival"
        for each in facts["open"]
    ]
    return "\n".join([head, *lines, f"speedup over the fp32 student: {gains} ({where})", *opens])


def draw_figure(facts: Facts) -> str:
    """Return the facts as SVG."""
    bars = [
        Bar(
            f"batch {batch}, {shown}",
            found[model]["p50"],
            found[model]["p99"],
            f"{found[model]['throughput']:,.0f} samples/s",
        )
        for batch, found in facts["batches"].items()
        for model, shown in SHOWN.items()
    ]
    bars += [
        Bar("engine, open loop", each["p50"], each["p99"], f"{each['throughput']:,.0f} samples/s")
        for each in facts["open"]
    ]
    return drawn(f"{facts['bundle']}, {facts['machine']['cpu']}, one thread", bars)


def make_row(batch: str, model: str, found: Mapping[str, float]) -> str:
    times = f"{found['p50']:>9,.1f}  {found['p99']:>9,.1f}"
    return f"{batch:>5}  {model:<12}  {times}  {found['throughput']:>10,.0f}"
