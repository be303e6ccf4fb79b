"""What ``benchmarks.serving`` found: the table, the figure, and what became of the goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from attar.proof.estimates import statistics
from attar.serving.load.figure import Bar, draw_chart
from attar.serving.load.load import Outcome
from benchmarks.verdicts import judge_least, judge_most

CONNECTIONS = (1, 16, 64)
PEAK = 64
MANY = 32
"""Samples a request, beside 1."""
FLAT = 0.02
"""Of the memory after the first minute: so much more at the end is flat."""
SOAK = 10
"""Pieces of a minute that decide about the soak."""
Case: TypeAlias = tuple[str, str, int, int]
"""Server, form, samples a request, connections."""
OURS = "attar serve"
TIMES = {"MLServer": (6.0, 8.0, 13.0), "LitServe": (8.0, 11.0, 18.0)}
"""How many times their requests a second in JSON: promised, the goal, further."""


@dataclass
class BundleMeasurements:
    bundle: str
    rounds: dict[Case, list[dict[str, float]]] = field(default_factory=dict)
    engine: list[float] = field(default_factory=list)
    """Samples a second of the bare engine, batches of 32, a round."""
    peak: list[dict[str, float]] = field(default_factory=list)
    """Quantiles at 80 % of peak load."""
    soaked: list[dict[str, float]] = field(default_factory=list)
    ready: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)

    def add_outcome(self, case: Case, outcome: Outcome) -> None:
        errors = float(sum(outcome.errors.values()))
        made = {
            "rate": outcome.rate,
            "errors": errors,
            "busy": outcome.busy,
            **outcome.compute_quantiles(),
        }
        self.rounds.setdefault(case, []).append(made)

    def collect_values(self, case: Case, what: str = "rate") -> Any:
        return np.array([found.get(what, np.inf) for found in self.rounds[case]])

    def compute_rate(self, case: Case) -> float:
        return float(np.median(self.collect_values(case)))

    def to_json(self) -> dict[str, Any]:
        cases = [{"case": list(case), "rounds": found} for case, found in self.rounds.items()]
        rest = {name: value for name, value in vars(self).items() if name != "rounds"}
        return {**rest, "cases": cases}


def render_table(found: BundleMeasurements) -> str:
    head = [
        "server",
        "form",
        "samples",
        "connections",
        "requests/s",
        "p50, µs",
        "p99, µs",
        "errors",
    ]
    lines = [format_row(found, case) for case in found.rounds]
    lines += [f"| {name} | not run here: {why} |" + " |" * 6 for name, why in found.missing.items()]
    engine = f"| engine alone | | {MANY} | | {np.median(found.engine) / MANY:,.0f} | | | |"
    return "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *lines, engine])


def format_row(found: BundleMeasurements, case: Case) -> str:
    times = [
        f"{np.median(found.collect_values(case, name)):,.0f}" for name in ("rate", "p50", "p99")
    ]
    errors = found.collect_values(case, "errors").sum()
    return f"| {' | '.join([*map(str, case), *times])} | {errors:.0f} |"


def judge_goals(found: BundleMeasurements) -> list[str]:
    """Return what was hoped for and what became of it."""
    said = [goal for name, least in TIMES.items() for goal in judge_peer(found, name, least)]
    json, binary, many = (OURS, "json", 1, 16), (OURS, "binary", 1, 16), (OURS, "binary", MANY, 16)
    said.append(
        judge_goal(
            "binary tensors, times our JSON",
            found.collect_values(binary) / found.collect_values(json),
            (1.4,),
        )
    )
    share = MANY * found.collect_values(many) / np.array(found.engine)
    said.append(
        judge_goal(f"{MANY} samples a request, share of the bare engine", share, (0.55, 0.75))
    )
    spread = np.array([each["p99"] / each["p50"] for each in found.peak if "p99" in each])
    return [
        *said,
        judge_goal("80 % of peak load, p99 over p50", spread, (5.0,), most=True),
        judge_soak(found),
        *describe_servers(found),
    ]


def judge_peer(found: BundleMeasurements, name: str, least: Sequence[float]) -> list[str]:
    if name in found.missing:
        return [f"{name}: not run here: {found.missing[name]}"]
    mine, theirs = ((server, "json", 1, 16) for server in (OURS, name))
    said = [
        judge_goal(
            f"requests/s in JSON at 16 connections, times {name}'s",
            found.collect_values(mine) / found.collect_values(theirs),
            least,
        )
    ]
    for c in CONNECTIONS:
        ratio = found.collect_values((OURS, "json", 1, c), "p99") / found.collect_values(
            (name, "json", 1, c), "p99"
        )
        said.append(judge_goal(f"p99 at {c} connections, times {name}'s", ratio, (1.0,), most=True))
    return said


def judge_goal(what: str, values: Any, limits: Sequence[float], most: bool = False) -> str:
    """Return the median over the rounds with its bounds, and whether each limit is kept, missed or
    undecided."""
    if len(values) < statistics.count_fewest_values():
        verdicts, shown = ["undecided: too few rounds" for _ in limits], "no bounds"
    else:
        low, high = statistics.bound_median(values)
        verdicts = [(judge_most if most else judge_least)(low, high, limit) for limit in limits]
        shown = f"{low:.2f} to {high:.2f}"
    middle = float(np.median(values)) if len(values) else float("nan")
    asked = "; ".join(
        f"at {'most' if most else 'least'} {limit:g}: {said}"
        for limit, said in zip(limits, verdicts, strict=True)
    )
    return f"{what}: {middle:.2f} ({shown}); {asked}"


def judge_soak(found: BundleMeasurements) -> str:
    if len(found.soaked) < 2:
        return "soak at 80 % of peak load: not run here"
    first, last = found.soaked[0]["resident"], found.soaked[-1]["resident"]
    errors = sum(each["errors"] for each in found.soaked)
    kept = (
        "missed"
        if errors or last > (1 + FLAT) * first
        else "kept"
        if len(found.soaked) >= SOAK
        else "undecided: too short"
    )
    grown = (
        f"{first / 1e6:.1f} MB after the first of {len(found.soaked)} pieces, {last / 1e6:.1f} MB "
        "after the last"
    )
    return (
        f"soak at 80 % of peak load: {grown}, {errors:.0f} errors; flat within {FLAT:.0%}, no "
        f"error: {kept}"
    )


def describe_servers(found: BundleMeasurements) -> list[str]:
    return [
        f"{name}: listens after {found.ready[name]:.2f} s, {found.memory[name] / 1e6:.0f} MB "
        "resident"
        for name in found.ready
    ]


def draw_figure(found: BundleMeasurements) -> str:
    bars = [
        make_bar(found, case)
        for case in found.rounds
        if np.isfinite(found.collect_values(case, "p99")).all()
    ]
    return draw_chart(f"{found.bundle}: servers on one core, {len(found.engine)} rounds", bars)


def make_bar(found: BundleMeasurements, case: Case) -> Bar:
    times: Mapping[str, float] = {
        name: float(np.median(found.collect_values(case, name))) for name in ("p50", "p99")
    }
    name, form, batch, connections = case
    return Bar(
        f"{name}, {form}, {batch} × {connections}",
        times["p50"],
        times["p99"],
        f"{found.compute_rate(case):,.0f} requests/s",
    )
