"""Choose: the fastest candidate that keeps the promises on validation. Another promise times nothing again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts, Stage
from attar.proof import statistics
from attar.proof.gate import Gate, Metric, combine_verdicts
from attar.proof.gate_evaluation import evaluate_candidate_gates
from attar.proof.gate_text import format_limit, format_metric, format_value
from attar.proof.limits import GateLimits
from attar.stages.artifacts import Choice, Trials

SCORES: frozenset[Metric] = frozenset({"score", "score_drop", "agreement"})
"""Shares of samples: they move by whole samples."""
Row = Mapping[str, Any]
Rounds = Mapping[str, npt.NDArray[np.float64]]
"""Seconds of a call at batch 1 by candidate; entry i of all is from the same round."""


class Choose(Stage[Choice]):
    """What is promised of the engine's answers, and what its precision must keep of the fp32 graph, is held against each
    candidate; the fastest that passes goes on. Where others are as fast within the noise, the most faithful of them does. Whether
    a score passes may hang on a sample or two, by which a candidate differs from another only by chance: one whose numbers are
    inside the promises counts too if nothing but a score is undecided, and that is not proven to be below the fp32 graph's. If
    too few samples let any pass, all count whose numbers are inside the promises, though their bounds are not. If all break a
    promise it is the most faithful, for the gates on test to judge; if all need another machine, the first.

    Facts: ``winner``; ``passed``: whether it passed on validation; ``summary``; ``split``, ``samples``,
    ``score_name``, ``batch``, ``timing``; and ``candidates`` in the recipe's order: ``candidate``, ``title``, ``status``,
    ``verdict``, ``reason``, ``score``, ``score_drop``, ``correlation``, ``p50`` (microseconds by batch size), ``bytes``,
    ``threads``, ``slower`` (``times`` the fastest of those that count, with ``bounds``).
    """

    gates: GateLimits = GateLimits()
    """What is promised; ``[gates]`` of the recipe, unless the target has its own."""

    def run(self, out: Path, *, trials: Trials) -> Facts:
        """Raises StageError when every candidate is refused, with the reasons."""
        rows = {row["candidate"]: row for row in trials.facts["candidates"]}
        measured = {name: row for name, row in rows.items() if row["status"] == "measured"}
        judged = {
            name: evaluate_candidate_gates(trials.facts, row, self.gates)
            for name, row in measured.items()
        }
        slower = ratios(rounds(trials, counting(judged, rows)), rows)
        winner = chosen(rows, slower)
        told = {
            name: reason(name, winner, row, judged.get(name, ()), slower)
            for name, row in rows.items()
        }
        shown = {
            name: combine_verdicts(each.verdict for each in found) for name, found in judged.items()
        }
        about = {
            name: trials.facts[name]
            for name in ("split", "samples", "score_name", "batch", "timing")
        }
        return {
            **about,
            "winner": winner,
            "passed": shown.get(winner) == "passed",
            "summary": f"{rows[winner]['title']} goes on: {told[winner]}",
            "candidates": [
                {
                    **columns(row),
                    "verdict": shown.get(name, row["status"]),
                    "reason": told[name],
                    "slower": slower.get(name),
                }
                for name, row in rows.items()
            ],
        }


def counting(judged: Mapping[str, Sequence[Gate]], rows: Mapping[str, Row]) -> list[str]:
    """Those that are chosen by their speed: all that pass, and what lacks nothing but samples to pass with them; where none
    passes, all whose numbers are inside every promise."""
    inside = [
        name for name, found in judged.items() if not any(gate.exceeds_limit for gate in found)
    ]
    if not any(passed(judged[name]) for name in inside):
        return inside
    return [name for name in inside if passed(judged[name]) or alike(judged[name], rows[name])]


def passed(judged: Sequence[Gate]) -> bool:
    return all(each.verdict == "passed" for each in judged)


def alike(judged: Sequence[Gate], row: Row) -> bool:
    """Whether only scores are undecided, and the one against the graph in fp32 is not proven to have dropped."""
    open_ones = {each.comparison.metric for each in judged if each.verdict != "passed"}
    bounds = row["previous"]["bounds"]["score_drop"]
    return open_ones <= SCORES and bounds is not None and bounds[0] <= 0


def rounds(trials: Trials, names: Sequence[str]) -> Rounds:
    seconds = load_file(trials.root / "seconds.safetensors") if names else {}
    return {name: seconds[f"{name}.1"] for name in names}


def ratios(seconds: Rounds, rows: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """How many times as long as the fastest each takes: the median over rounds, in which both took their turn, and its bounds."""
    if not seconds:
        return {}
    fastest = min(seconds, key=lambda name: p50(rows[name]))
    apart = {name: taken / seconds[fastest] for name, taken in seconds.items()}
    return {
        name: {"times": float(np.median(each)), "bounds": list(statistics.median(each))}
        for name, each in apart.items()
    }


def p50(row: Row) -> float:
    return float(row["latency"]["1"]["p50"])


def chosen(rows: Mapping[str, Row], slower: Mapping[str, Row]) -> str:
    """Raises StageError when there is nothing to choose from."""
    if slower:
        fastest = [
            name for name in sorted(slower, key=lambda name: p50(rows[name])) if tied(slower[name])
        ]
        return max(
            fastest, key=lambda name: faithful(rows[name])
        )  # of equals the first: the one with the least median
    measured = [name for name, row in rows.items() if row["status"] == "measured"]
    if measured:
        return max(measured, key=lambda name: faithful(rows[name]))
    absent = [name for name, row in rows.items() if row["status"] == "not run here"]
    if absent:
        return absent[0]
    said = "; ".join(f"{row['title']}: {row['why']}" for row in rows.values())
    raise StageError(
        f"no candidate is left. {said}. Add one that can be had, such as {{ precision = 'fp32' }}"
    )


def tied(slower: Row) -> bool:
    """Whether it may be as fast as the fastest: the bounds of their ratio hold 1."""
    return bool(slower["bounds"][0] <= 1)


def faithful(row: Row) -> tuple[float, float]:
    """More is better; the correlation first, for it sees what no score does."""
    return row["teacher"]["correlation"], -row["teacher"]["score_drop"]


def reason(
    name: str, winner: str, row: Row, judged: Sequence[Gate], slower: Mapping[str, Row]
) -> str:
    """Why it goes on or does not."""
    if row["status"] != "measured":
        return f"{row['status']}: {row['why']}" + (
            "; none runs here, and it is the first" if name == winner else ""
        )
    broken = "; ".join(format_open_gate(each) for each in judged if each.verdict != "passed")
    if name == winner:
        goes = first(name, slower, "may keep" if broken else "keeps")
        return f"{goes}; {broken}" if broken else goes
    return later(slower[name]) if name in slower else broken


def first(name: str, slower: Mapping[str, Row], keeps: str) -> str:
    """Of the one that goes on."""
    if not slower:
        return "the most faithful, none keeps the promises"
    if len(slower) == 1:
        return f"the only one that {keeps} the promises"
    if any(tied(each) for other, each in slower.items() if other != name):
        return "the most faithful of the fastest"
    return f"the fastest that {keeps} the promises"


def later(slower: Row) -> str:
    if tied(slower):
        return "as fast within the noise, and no more faithful"
    low, high = slower["bounds"]
    return f"slower: {slower['times']:.3g} times ({low:.3g} to {high:.3g})"


def format_open_gate(gate: Gate) -> str:
    """Return ``correlation 0.95 (0.94 to 0.96), promised at least 0.97``."""
    baseline = " against fp32" if gate.comparison.baseline == "previous" else ""
    note = f" ({gate.note})" if gate.note else ""
    metric = format_metric(gate.comparison.metric)
    text = f"{metric}{baseline} {format_value(gate)}{note}, promised {format_limit(gate)}"
    return text if gate.verdict == "failed" else f"{gate.verdict}: {text}"


def columns(row: Row) -> dict[str, Any]:
    """What the report shows of a candidate; None where it was not measured."""
    alike, latency = row.get("teacher") or {}, row.get("latency") or {}
    return {
        **{name: row[name] for name in ("candidate", "title", "status")},
        **{name: row.get(name) for name in ("score", "bytes", "threads")},
        **{name: alike.get(name) for name in ("score_drop", "correlation")},
        "p50": {batch: taken["p50"] for batch, taken in latency.items()},
    }
