"""What a bundle of two engines gains in serving: the pair beside each of its engines alone.

``python -m benchmarks.serving_pair --store DIR`` makes three bundles of one depthwise student, in
int8 on ONNX Runtime, on OpenVINO, and with one engine of each (``optimize_for = [1, 32]``), and
serves all three on one core. In each round every bundle gets single samples over 1 and over 64
connections and batches of 32, in an order that changes; only the asked server is awake.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from attar.api import run
from attar.bundle import golden, opening
from attar.pipeline.keys import machine
from attar.proof.comparison.timing import Seconds, read_load_average
from attar.proof.estimates import statistics
from benchmarks.peers.servers import ATTAR, RunningPeer

RECIPE = "demo"
STUDENT = (
    'student.network="attar.models.networks.mobile:mobile"',
    "student.options={width=24, stem=2}",
    "control.enabled=false",
    "gates={score_drop=0.05, correlation=0.9}",  # the student is there for its speed
)
PAIR = "both"
CANDIDATES: Mapping[str, str] = {
    "ONNX Runtime": '{precision="int8", runtime="onnxruntime"}',
    "OpenVINO": '{precision="int8", runtime="openvino"}',
}
CASES = ((1, 1), (1, 64), (32, 4))
"""Samples of a request, and connections."""
Rates = dict[tuple[int, int], dict[str, list[float]]]
"""Requests a second by case and bundle; entry i of all is from the same round."""


def list_overrides(name: str) -> list[str]:
    """Return the settings of a bundle of one engine, or of both."""
    chosen = CANDIDATES.values() if name == PAIR else [CANDIDATES[name]]
    sizes = "[1, 32]" if name == PAIR else "1"
    target = f"{{candidates=[{', '.join(chosen)}], threads=1, optimize_for={sizes}}}"
    return [*STUDENT, f"targets.cpu={target}"]


def make_bundle(store: Path, name: str) -> Path:
    """Return the folder of a bundle. Raises SystemExit if the recipe makes none."""
    records = run(RECIPE, store=store, overrides=list_overrides(name))
    made = [record.path for record in records if record.slot == "cpu.bundle" and record.path]
    if not made:
        raise SystemExit(f"no bundle of {name}: {[each.error for each in records if each.error]}")
    return Path(made[0]).resolve()


def check_pair(bundle: Path) -> None:
    """Raises SystemExit if one engine was the fastest at both sizes."""
    if opening.open_verified(bundle).manifest.batch is None:
        raise SystemExit("one engine is the fastest at both sizes here: there is no pair")


def measure_rates(
    servers: Mapping[str, RunningPeer], bundle: Path, rounds: int, seconds: float
) -> Rates:
    requests = golden.load_requests(bundle, opening.open_verified(bundle).manifest)
    rates: Rates = {case: {name: [] for name in servers} for case in CASES}
    turns = [(case, name) for case in CASES for name in servers]
    order = np.random.default_rng(0)
    for _ in range(rounds):
        for index in order.permutation(len(turns)):
            (samples, connections), name = turns[index]
            outcome = servers[name].run_closed_loop(
                requests, "binary", samples, connections, seconds
            )
            if outcome.errors:
                raise SystemExit(f"{name}: {outcome.errors}")
            rates[samples, connections][name].append(outcome.rate)
    return rates


def format_case(case: tuple[int, int], rates: Mapping[str, Sequence[float]]) -> str:
    """Return a row: requests a second of each, and the pair beside the better of the others."""
    columns: dict[str, Seconds] = {name: np.array(found) for name, found in rates.items()}
    others = [name for name in columns if name != PAIR]
    best = max(others, key=lambda name: float(np.median(columns[name])))
    ratios = columns[PAIR] / columns[best]
    low, high = statistics.bound_median(ratios)
    cells = [f"{float(np.median(each)):,.0f}" for each in columns.values()]
    gained = f"{float(np.median(ratios)):.3f} ({low:.3f} to {high:.3f}) of {best}"
    return f"| {case[0]} | {case[1]} | {' | '.join(cells)} | {gained} |"


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    chosen = parser.parse_args()
    bundles = {name: make_bundle(chosen.store, name) for name in (*CANDIDATES, PAIR)}
    check_pair(bundles[PAIR])
    os.sched_setaffinity(0, {cores[0]})
    before = read_load_average()
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                RunningPeer(ATTAR, bundle, chosen.store, cores[-1], chosen.store / f"{index}.log")
            )
            for index, (name, bundle) in enumerate(bundles.items())
        }
        for server in servers.values():
            server.send_signal(signal.SIGSTOP)
        rates = measure_rates(servers, bundles[PAIR], chosen.rounds, chosen.seconds)
    print(
        f"\n{machine.describe_machine()['cpu']}, {datetime.now(UTC):%d %B %Y}; servers on core "
        f"{cores[-1]}, load on core {cores[0]}; {chosen.rounds} rounds of {chosen.seconds:g} s; "
        f"load average {before:.1f} to {read_load_average():.1f}\n"
    )
    print(f"| samples | connections | {' | '.join(bundles)} | the pair beside the better |")
    print("|" + " --- |" * (len(bundles) + 3))
    for case, found in rates.items():
        print(format_case(case, found))


if __name__ == "__main__":
    main()
