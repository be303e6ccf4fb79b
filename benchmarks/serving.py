"""attar serve against other servers of the same engine: one run, interleaved, server and load
generator on one core each.

``python -m benchmarks.serving`` makes the bundle with ``attar run demo`` unless it is given one,
installs every peer into an environment of its own, starts all servers on one core and stops each
(SIGSTOP) except while it is measured. In each round everything is measured once, in an order that
changes; what is compared is compared within rounds. ``--soak 600`` adds ten minutes at 80 % of peak
load. Run it on a quiet machine of two cores or more: about 20 minutes with the soak.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from attar.api import run
from attar.bundle import golden
from attar.bundle import opening as bundle
from attar.models.task import Arrays
from attar.pipeline.keys import machine
from attar.proof.comparison.timing import read_load_average
from attar.serving.load.load import SHARE, Outcome
from benchmarks.peers.environments import OURS, UnavailableError, prepare_python, read_versions
from benchmarks.peers.process import choose_variables
from benchmarks.peers.servers import ATTAR, PEERS, RunningPeer, check_server
from benchmarks.serving_report import (
    CONNECTIONS,
    MANY,
    PEAK,
    BundleMeasurements,
    Case,
    draw_figure,
    judge_goals,
    render_table,
)


def make_bundle(chosen: argparse.Namespace) -> Path:
    if chosen.bundle:
        return Path(chosen.bundle).resolve()
    records = run("demo", store=chosen.store)
    return next(
        Path(str(record.path)).resolve() for record in records if record.slot == "cpu.bundle"
    )


def open_servers(
    chosen: argparse.Namespace,
    path: Path,
    requests: Arrays,
    found: BundleMeasurements,
    stack: ExitStack,
) -> dict[str, RunningPeer]:
    """Open those that can be had here; why the others cannot goes to ``found``."""
    made: dict[str, RunningPeer] = {}
    for peer in PEERS:
        log = chosen.work / f"{peer.environment.name}.log"
        running = RunningPeer(peer, path, chosen.environments, chosen.server_core, log)
        try:
            stack.enter_context(running)
            for form in peer.forms:
                check_server(running, requests, form)
        except UnavailableError as error:
            found.missing[peer.name] = str(error)
            continue
        found.ready[peer.name], found.memory[peer.name] = running.ready, running.sum_memory()
        made[peer.name] = running
    return made


def list_cases(servers: dict[str, RunningPeer]) -> list[Case]:
    made = [
        (name, form, 1, c)
        for name, each in servers.items()
        for form in each.peer.forms
        for c in CONNECTIONS
    ]
    return [*made, (ATTAR.name, "binary", MANY, 16)]


def measure_rounds(
    chosen: argparse.Namespace,
    path: Path,
    requests: Arrays,
    servers: dict[str, RunningPeer],
    found: BundleMeasurements,
) -> None:
    order, every = np.random.default_rng(0), list_cases(servers)
    for _ in range(chosen.rounds):
        for index in order.permutation(len(every)):
            name, form, batch, connections = every[index]
            outcome = servers[name].run_closed_loop(
                requests, form, batch, connections, chosen.seconds
            )
            found.add_outcome(every[index], outcome)
        found.engine.append(measure_bare_engine(path, chosen))
        found.loads.append(read_load_average())


def measure_bare_engine(path: Path, chosen: argparse.Namespace) -> float:
    """Return the samples a second of the engine alone, on the servers' core."""
    command = [
        "taskset",
        "-c",
        str(chosen.server_core),
        str(prepare_python(OURS, chosen.environments)),
    ]
    arguments = ["-m", "benchmarks.peers.bare_engine", str(path), str(MANY), str(chosen.seconds)]
    return float(
        subprocess.run(
            [*command, *arguments], capture_output=True, check=True, env=choose_variables(OURS)
        ).stdout
    )


def run_open_loop(running: RunningPeer, requests: Arrays, rate: float, seconds: float) -> Outcome:
    with running.open_load(requests, "json", 1, 64) as load:
        return load.run_open_loop(rate, seconds)


def measure_peak(
    chosen: argparse.Namespace, running: RunningPeer, requests: Arrays, found: BundleMeasurements
) -> None:
    """Run the open loop at 80 % of peak, a few times, then the soak in pieces of a minute."""
    rate = SHARE * found.compute_rate((ATTAR.name, "json", 1, PEAK))
    running.send_signal(signal.SIGCONT)
    for _ in range(chosen.rounds):
        found.peak.append(
            run_open_loop(running, requests, rate, chosen.seconds).compute_quantiles()
        )
    for piece in range(int(chosen.soak / chosen.soak_piece)):
        outcome = run_open_loop(running, requests, rate, chosen.soak_piece)
        found.soaked.append(
            {
                "errors": sum(outcome.errors.values()),
                "resident": running.sum_memory(),
                **outcome.compute_quantiles(),
            }
        )
        print(f"soak {piece + 1}: {found.soaked[-1]}", flush=True)


def measure_servers(chosen: argparse.Namespace) -> BundleMeasurements:
    path = make_bundle(chosen)
    chosen.work.mkdir(parents=True, exist_ok=True)
    manifest = bundle.open_verified(path).manifest
    requests, found = golden.load_requests(path, manifest), BundleMeasurements(manifest.name)
    os.sched_setaffinity(0, {chosen.load_core})
    with ExitStack() as stack:
        servers = open_servers(chosen, path, requests, found, stack)
        if ATTAR.name not in servers:
            raise SystemExit(f"attar serve: {found.missing[ATTAR.name]}")
        measure_rounds(chosen, path, requests, servers, found)
        measure_peak(chosen, servers[ATTAR.name], requests, found)
    return found


def render_report(chosen: argparse.Namespace, found: BundleMeasurements) -> str:
    here = machine.describe_machine()
    head = (
        f"{datetime.now(UTC):%d %B %Y}, {here['cpu']}, {here['system']}; {found.bundle}; servers "
        f"on core {chosen.server_core}, "
    )
    head += (
        f"load on core {chosen.load_core}; {chosen.rounds} rounds of {chosen.seconds:g} s; load "
        "average "
    )
    loads = ", ".join(f"{load:.1f}" for load in found.loads)
    warning = "\n\n**One core for both: the numbers mean nothing.**" * (
        chosen.server_core == chosen.load_core
    )
    return "\n".join(
        [
            head + loads + warning,
            "",
            render_table(found),
            "",
            *(f"- {goal}" for goal in judge_goals(found)),
            "",
        ]
    )


def list_versions(cache: Path, found: BundleMeasurements) -> dict[str, Any]:
    return {
        peer.name: dict(read_versions(peer.environment, cache))
        for peer in PEERS
        if peer.name not in found.missing
    }


def main(arguments: Sequence[str] | None = None) -> None:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--bundle",
        type=Path,
        help="made with `attar run demo` unless given; built for ONNX Runtime",
    )
    parser.add_argument("--store", type=Path, default=Path(".attar"))
    parser.add_argument(
        "--work", type=Path, default=Path(".benchmarks/serving"), help="where the servers' logs go"
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path(".benchmarks/peers"),
        help="where the peers are installed",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--soak", type=float, default=0.0, help="seconds at 80 %% of peak load")
    parser.add_argument(
        "--soak-piece", type=float, default=60.0, help="seconds between looks at the memory"
    )
    parser.add_argument("--server-core", type=int, default=cores[-1])
    parser.add_argument("--load-core", type=int, default=cores[0])
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--json", type=Path, help="where to write all that was measured")
    parser.add_argument("--figure", type=Path, help="where to draw rates and latencies, as SVG")
    chosen = parser.parse_args(arguments)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("ended before it was done")
    )  # so that no server is left behind
    found = measure_servers(chosen)
    print(render_report(chosen, found))
    if chosen.markdown:
        chosen.markdown.write_text(render_report(chosen, found))
    if chosen.figure:
        chosen.figure.write_text(draw_figure(found))
    if chosen.json:
        about = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine.describe_machine(),
            "goals": judge_goals(found),
        }
        about |= {
            "versions": list_versions(chosen.environments, found),
            "cores": [chosen.server_core, chosen.load_core],
        }
        chosen.json.write_text(json.dumps({**about, **found.to_json()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
