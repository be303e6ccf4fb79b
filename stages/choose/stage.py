"""Choose: the fastest candidate that keeps its gates. Another limit times nothing again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts, Stage
from attar.proof import statistics
from attar.proof.bounds import ConfidenceBounds
from attar.proof.gate import Comparison, Gate, Metric, combine_verdicts
from attar.proof.gate_evaluation import evaluate_candidate_gates
from attar.proof.gate_text import format_limit, format_metric, format_value
from attar.proof.ledger_json import Hop, hop_from_json, ledger_from_json
from attar.proof.limits import GateLimits
from attar.stages.artifacts import Choice, Trials

SCORE_METRICS: frozenset[Metric] = frozenset({"score", "score_drop", "agreement"})
"""Shares of samples: they move by whole samples."""
Row = Mapping[str, Any]
"""The facts of one candidate, as ``MeasureCandidates`` leaves them."""
Seconds = Mapping[str, npt.NDArray[np.float64]]
"""Seconds of a call at batch 1 by candidate; entry i of all is from the same round."""


@dataclass(frozen=True)
class LatencyRatio:
    """The latency of a candidate, divided by that of the fastest: the median over rounds."""

    times: float
    bounds: ConfidenceBounds


class Choose(Stage[Choice]):
    """Select the fastest candidate that keeps its gates on the validation split.

    A candidate is eligible if all of its gates pass. It is also eligible if only score gates are
    undecided and no score drop from the fp32 graph is proven: one or two samples may decide a
    score. If no candidate passes, all whose measured values keep the limits are eligible.

    The eligible candidates that may be as fast as the fastest are tied, and the one closest to
    the teacher wins. If none is eligible, the closest to the teacher of all measured ones wins;
    if none could be measured on this machine, the first that runs on another one.

    Facts: ``winner``; ``passed``: whether it passed on validation; ``summary``; ``split``,
    ``samples``, ``score_name``, ``batch``, ``timing``; and ``candidates`` in the recipe's order:
    ``candidate``, ``title``, ``status``, ``verdict``, ``reason``, ``score``, ``score_drop``,
    ``correlation``, ``p50`` (microseconds by batch size), ``bytes``, ``threads``, ``slower``
    (``times`` the fastest of the eligible ones, with ``bounds``).
    """

    gates: GateLimits = GateLimits()
    """What is promised; ``[gates]`` of the recipe, unless the target has its own."""

    def run(self, out: Path, *, trials: Trials) -> Facts:
        """Raises StageError if every candidate is refused, with the reasons."""
        rows = {row["candidate"]: row for row in trials.facts["candidates"]}
        hops = read_hops(trials.facts)
        ledger = ledger_from_json(trials.facts)
        gates = {
            name: evaluate_candidate_gates(ledger, hop, self.gates) for name, hop in hops.items()
        }
        drops = {name: hop.comparisons["previous", "score_drop"] for name, hop in hops.items()}
        ratios = compute_latency_ratios(load_seconds(trials, find_eligible(gates, drops)), rows)
        winner = select_winner(rows, ratios)
        reasons = {
            name: explain_choice(name, winner, row, gates.get(name, ()), ratios)
            for name, row in rows.items()
        }
        verdicts = {
            name: combine_verdicts(gate.verdict for gate in of) for name, of in gates.items()
        }
        shared = ("split", "samples", "score_name", "batch", "timing")
        return {
            **{name: trials.facts[name] for name in shared},
            "winner": winner,
            "passed": verdicts.get(winner) == "passed",
            "summary": f"{rows[winner]['title']} goes on: {reasons[winner]}",
            "candidates": [
                {
                    **select_columns(row),
                    "verdict": verdicts.get(name, row["status"]),
                    "reason": reasons[name],
                    "slower": ratio_to_json(ratios.get(name)),
                }
                for name, row in rows.items()
            ],
        }


def read_hops(facts: Facts) -> dict[str, Hop]:
    """Return the measured candidates, each in the place of the target's model."""
    return {
        row["candidate"]: hop_from_json(row, "model", facts["samples"])
        for row in facts["candidates"]
        if row["status"] == "measured"
    }


def find_eligible(
    gates: Mapping[str, Sequence[Gate]], fp32_score_drops: Mapping[str, Comparison]
) -> list[str]:
    """Return the names of the candidates that may win by speed; see `Choose`."""
    within_limits = [name for name in gates if keeps_limits(gates[name])]
    if not any(has_passed(gates[name]) for name in within_limits):
        return within_limits
    return [
        name
        for name in within_limits
        if has_passed(gates[name]) or lacks_only_samples(gates[name], fp32_score_drops[name])
    ]


def keeps_limits(gates: Sequence[Gate]) -> bool:
    """Whether no measured value violates its limit, whatever its bounds are."""
    return not any(gate.exceeds_limit for gate in gates)


def has_passed(gates: Sequence[Gate]) -> bool:
    return all(gate.verdict == "passed" for gate in gates)


def lacks_only_samples(gates: Sequence[Gate], fp32_score_drop: Comparison) -> bool:
    """Whether only score gates are undecided, and no score drop from fp32 is proven."""
    open_metrics = {gate.comparison.metric for gate in gates if gate.verdict != "passed"}
    bounds = fp32_score_drop.bounds
    return open_metrics <= SCORE_METRICS and bounds is not None and bounds.low <= 0


def load_seconds(trials: Trials, names: Sequence[str]) -> Seconds:
    seconds = load_file(trials.root / "seconds.safetensors") if names else {}
    return {name: seconds[f"{name}.1"] for name in names}


def compute_latency_ratios(seconds: Seconds, rows: Mapping[str, Row]) -> dict[str, LatencyRatio]:
    """Return for each candidate how many times as long as the fastest it takes.

    Both take their turn in every round, and the ratio is taken within a round.
    """
    if not seconds:
        return {}
    fastest = min(seconds, key=lambda name: read_p50(rows[name]))
    ratios = {name: taken / seconds[fastest] for name, taken in seconds.items()}
    return {
        name: LatencyRatio(float(np.median(ratio)), statistics.bound_median(ratio))
        for name, ratio in ratios.items()
    }


def ratio_to_json(ratio: LatencyRatio | None) -> dict[str, Any] | None:
    return None if ratio is None else {"times": ratio.times, "bounds": list(ratio.bounds)}


def read_p50(row: Row) -> float:
    return float(row["latency"]["1"]["p50"])


def select_winner(rows: Mapping[str, Row], ratios: Mapping[str, LatencyRatio]) -> str:
    """Return the candidate that goes on; see `Choose`.

    Raises StageError if there is nothing to choose from.
    """
    measured = [name for name, row in rows.items() if row["status"] == "measured"]
    if ratios:
        by_speed = sorted(ratios, key=lambda name: read_p50(rows[name]))
        measured = [name for name in by_speed if is_tied_with_fastest(ratios[name])]
    if measured:  # of equals the first, which has the least median
        return max(measured, key=lambda name: rank_similarity(rows[name]))
    absent = [name for name, row in rows.items() if row["status"] == "not run here"]
    if absent:
        return absent[0]
    reasons = "; ".join(f"{row['title']}: {row['why']}" for row in rows.values())
    raise StageError(
        f"no candidate is left. {reasons}. Add one that can be had, "
        "such as { precision = 'fp32' }"
    )


def is_tied_with_fastest(ratio: LatencyRatio) -> bool:
    """Whether its latency, divided by that of the fastest, is not proven to be above 1."""
    return ratio.bounds.low <= 1


def rank_similarity(row: Row) -> tuple[float, float]:
    """Return how close to the teacher it is: the correlation first, which sees more than a score."""
    return row["teacher"]["correlation"], -row["teacher"]["score_drop"]


def explain_choice(
    name: str,
    winner: str,
    row: Row,
    gates: Sequence[Gate],
    ratios: Mapping[str, LatencyRatio],
) -> str:
    """Return why a candidate goes on or does not."""
    if row["status"] != "measured":
        first = "; none runs here, and it is the first" if name == winner else ""
        return f"{row['status']}: {row['why']}{first}"
    open_gates = "; ".join(format_open_gate(gate) for gate in gates if gate.verdict != "passed")
    if name == winner:
        reason = explain_win(name, ratios, "may keep" if open_gates else "keeps")
        return f"{reason}; {open_gates}" if open_gates else reason
    return explain_loss(ratios[name]) if name in ratios else open_gates


def explain_win(name: str, ratios: Mapping[str, LatencyRatio], keeps: str) -> str:
    if not ratios:
        return "the most faithful, none keeps the promises"
    if len(ratios) == 1:
        return f"the only one that {keeps} the promises"
    others = [ratio for other, ratio in ratios.items() if other != name]
    if any(is_tied_with_fastest(ratio) for ratio in others):
        return "the most faithful of the fastest"
    return f"the fastest that {keeps} the promises"


def explain_loss(ratio: LatencyRatio) -> str:
    if is_tied_with_fastest(ratio):
        return "as fast within the noise, and no more faithful"
    low, high = ratio.bounds
    return f"slower: {ratio.times:.3g} times ({low:.3g} to {high:.3g})"


def format_open_gate(gate: Gate) -> str:
    """Return ``correlation 0.95 (0.94 to 0.96), promised at least 0.97``."""
    baseline = " against fp32" if gate.comparison.baseline == "previous" else ""
    note = f" ({gate.note})" if gate.note else ""
    metric = format_metric(gate.comparison.metric)
    text = f"{metric}{baseline} {format_value(gate)}{note}, promised {format_limit(gate)}"
    return text if gate.verdict == "failed" else f"{gate.verdict}: {text}"


def select_columns(row: Row) -> dict[str, Any]:
    """Return what the report shows of a candidate; None for what was not measured."""
    teacher, latency = row.get("teacher") or {}, row.get("latency") or {}
    return {
        **{name: row[name] for name in ("candidate", "title", "status")},
        **{name: row.get(name) for name in ("score", "bytes", "threads")},
        **{name: teacher.get(name) for name in ("score_drop", "correlation")},
        "p50": {batch: summary["p50"] for batch, summary in latency.items()},
    }
