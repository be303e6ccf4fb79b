"""Bench: how fast a bundle's engine is on this machine, beside the fp32 student that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attar.models.task import Arrays, Predictor
from attar.pipeline import machine
from attar.pipeline.errors import AttarError
from attar.pipeline.progress import advance
from attar.pipeline.stage import Facts
from attar.stages import bundle
from attar.stages.proof import timing

ROUNDS = 100_000  # the time decides
SHOWN = {"engine": "engine", "student_fp32": "student fp32"}
"""What is timed, and how a terminal calls it."""


def bench(path: str | Path, batches: Sequence[int] = (1, 32), seconds: float = 3.0) -> Facts:
    """Latency (microseconds a call) and throughput (samples a second) on one thread of one core, interleaved.

    About ``seconds`` for each batch size. Raises Unfit for a bundle that is not whole or not for this machine, and AttarError
    for a batch size that it does not promise.
    """
    folder = Path(path)
    manifest, _ = bundle.verified(folder)
    bundle.promised(manifest, batches)
    facts: dict[str, Any] = {"bundle": manifest.name, "machine": machine.describe(), "threads": 1, "batches": {}}
    with ExitStack() as stack:
        models = {
            "engine": stack.enter_context(bundle.opened(folder, manifest, threads=1)),
            "student_fp32": stack.enter_context(bundle.opened_reference(folder, manifest, threads=1)),
        }
        requests = bundle.requests(folder, manifest)
        facts["cpu"] = stack.enter_context(timing.pinned())
        for done, batch in enumerate(batches):
            advance("timing", done, len(batches), f"batch {batch}")
            facts["batches"][str(batch)] = timed(models, requests, batch, seconds)
    return {**facts, "load_average": timing.load_average()}


def timed(models: dict[str, Predictor], requests: Arrays, batch: int, seconds: float) -> dict[str, Any]:
    inputs = {name: array[np.arange(batch) % len(array)] for name, array in requests.items()}
    times = timing.interleaved({name: partial(model, inputs) for name, model in models.items()}, ROUNDS, seconds)
    found: dict[str, Any] = {name: timing.summary(taken, batch) for name, taken in times.items()}
    return {**found, "rounds": len(times["engine"]), "speedup": found["student_fp32"]["p50"] / found["engine"]["p50"]}


def table(facts: Facts) -> str:
    """The facts of ``bench`` for a terminal, one line a batch size and model."""
    head = f"{'batch':>5}  {'model':<12}  {'p50 µs':>9}  {'p99 µs':>9}  {'samples/s':>10}"
    lines = [row(batch, shown, found[model]) for batch, found in facts["batches"].items() for model, shown in SHOWN.items()]
    gains = ", ".join(f"{found['speedup']:.2f} at batch {batch}" for batch, found in facts["batches"].items())
    where = f"{facts['machine']['cpu']}, one thread, load average {facts['load_average']:.2f}"
    return "\n".join([head, *lines, f"speedup over the fp32 student: {gains} ({where})"])


def row(batch: str, model: str, found: Mapping[str, float]) -> str:
    return f"{batch:>5}  {model:<12}  {found['p50']:>9,.1f}  {found['p99']:>9,.1f}  {found['throughput']:>10,.0f}"
