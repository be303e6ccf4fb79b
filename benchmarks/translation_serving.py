"""What ``attar serve`` adds to the engine: eight sentences a request, text in, text out.

``python -m benchmarks.translation_serving BUNDLE`` serves a bundle that translates, over HTTP on
loopback, and asks it on one connection for the sentences of its golden requests, eight at a time.
In turns with that, the engine alone answers the same requests in this process, tokenizing and
detokenizing included. Server and engine run on one core, the client on another.

There are two ratios. That of the wall times is what a client sees; it needs a quiet machine. That
of the processor times, the server's process over the engine alone, bears other work beside it.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attar.bundle import golden
from attar.bundle.opening import BundlePredictor, open_bundle
from attar.models.task import Arrays
from attar.pipeline.keys import machine
from attar.proof.comparison.timing import read_load_average
from attar.proof.estimates.statistics import bound_median
from attar.serving.load.client import build_request, take_turns
from attar.serving.load.load_http import HttpLoad
from attar.serving.protocol.tensors import make_object_array
from benchmarks.peers.servers import ATTAR, RunningPeer, list_processes

SENTENCES = 8
LIMIT = 1.1
"""At most so many times the engine alone."""
TICK = 1 / os.sysconf("SC_CLK_TCK")
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RequestCost:
    """The mean of one request, in seconds."""

    wall: float
    """The median, of a client that waits for each answer."""
    processor: float


def read_texts(path: Path, model: BundlePredictor) -> dict[str, list[str]]:
    """Return the raw texts of the golden requests by the input's name."""
    tensors = golden.read_golden(path, model.manifest)
    return {name: tensors[f"raw.{name}"].tolist() for name in model.manifest.preprocess}


def answer_alone(model: BundlePredictor, requests: Sequence[Arrays], seconds: float) -> RequestCost:
    """Answer the requests in turn, from texts to texts, without a server."""
    times: list[float] = []
    processor, end = time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        model.postprocess(model(model.preprocess(requests[len(times) % len(requests)])))
        times.append(time.perf_counter() - start)
    used = time.process_time() - processor
    return RequestCost(float(np.median(times)), used / len(times))


def ask_server(running: RunningPeer, requests: Sequence[Arrays], seconds: float) -> RequestCost:
    """Ask the server for the same on one connection. Raises SystemExit if it refuses."""
    asked = [
        build_request("served-raw", each, "json").encode(str(running.where)) for each in requests
    ]
    running.send_signal(signal.SIGCONT)
    with HttpLoad(running.where, asked, 1) as load:
        load.run_closed_loop(seconds / 10)
        before = read_processor_seconds(running)
        outcome = load.run_closed_loop(seconds)
        used = read_processor_seconds(running) - before
    running.send_signal(signal.SIGSTOP)
    if outcome.errors:
        raise SystemExit(f"the server answered with {dict(outcome.errors)}")
    return RequestCost(float(np.median(outcome.latencies)), used / len(outcome.latencies))


def read_processor_seconds(running: RunningPeer) -> float:
    """Return what all threads of the server have computed."""
    ticks = 0
    for process in list_processes(running.process.pid):
        fields = (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        )
        ticks += int(fields[11]) + int(fields[12])  # of the user and of the system
    return ticks * TICK


@contextmanager
def stay_on_core(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_costs(chosen: argparse.Namespace) -> dict[str, list[RequestCost]]:
    """Return the costs of both in each round, by name."""
    found: dict[str, list[RequestCost]] = {"engine alone": [], "attar serve": []}
    with tempfile.TemporaryDirectory() as scratch, open_bundle(chosen.bundle, threads=1) as model:
        texts = read_texts(chosen.bundle, model)
        turns = take_turns(
            {name: np.array(each, object) for name, each in texts.items()}, SENTENCES
        )
        encoded = [
            {
                name: make_object_array([text.encode() for text in each])
                for name, each in turn.items()
            }
            for turn in turns
        ]
        log = Path(scratch) / "server.log"
        with RunningPeer(ATTAR, chosen.bundle, Path(scratch), chosen.server_core, log) as running:
            for _ in range(chosen.rounds):
                running.send_signal(signal.SIGSTOP)
                with stay_on_core(chosen.server_core):
                    found["engine alone"].append(answer_alone(model, turns, chosen.seconds))
                with stay_on_core(chosen.load_core):
                    found["attar serve"].append(ask_server(running, encoded, chosen.seconds))
    return found


def format_ratios(ratios: Numbers) -> str:
    low, high = bound_median(ratios)
    return f"{np.median(ratios):.3f} ({low:.3f} to {high:.3f})"


def print_results(chosen: argparse.Namespace, found: dict[str, list[RequestCost]]) -> None:
    here, cores = machine.describe_machine(), (chosen.server_core, chosen.load_core)
    print(f"{chosen.bundle}, {datetime.now(UTC):%d %B %Y}, {here['cpu']}, {here['system']}")
    print(
        f"{SENTENCES} sentences a request, one connection; server and engine on core {cores[0]}, "
        f"client on core {cores[1]}; {chosen.rounds} rounds of {chosen.seconds:g} s; load average "
        f"{read_load_average()}"
    )
    print("| | wall, ms a request | processor, ms a request |\n| --- | --- | --- |")
    for name, costs in found.items():
        wall, processor = (
            np.median([getattr(cost, part) for cost in costs]) * 1e3
            for part in ("wall", "processor")
        )
        print(f"| {name} | {wall:.2f} | {processor:.2f} |")
    ratios = {
        part: np.array(
            [getattr(s, part) / getattr(e, part) for e, s in zip(*found.values(), strict=True)]
        )
        for part in ("wall", "processor")
    }
    print(f"| ratio | {' | '.join(format_ratios(each) for each in ratios.values())} |")
    for part, each in ratios.items():
        is_kept = float(np.median(each)) <= LIMIT
        print(
            f"- {part}: at most {LIMIT} times the engine alone: {'kept' if is_kept else 'missed'}"
        )


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path, help="one that translates, for ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--server-core", type=int, default=cores[-1])
    parser.add_argument("--load-core", type=int, default=cores[0])
    chosen = parser.parse_args()
    print_results(chosen, measure_costs(chosen))


if __name__ == "__main__":
    main()
