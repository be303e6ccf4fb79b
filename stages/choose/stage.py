"""Choose: the fastest candidate that keeps its gates. Another limit times nothing again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts, Stage
from attar.proof.artifacts import Choice, Trials
from attar.proof.estimates import statistics
from attar.proof.gate import Comparison, Gate, Metric, combine_verdicts
from attar.proof.ledger.candidates import (
    CandidateChoice,
    CandidateMeasurement,
    CandidateResult,
    LatencyRatio,
)
from attar.proof.ledger.candidates_json import measurements_from_json
from attar.proof.ledger.ledger import Hop
from attar.proof.ledger.ledger_json import to_json
from attar.proof.verdicts.gate_evaluation import evaluate_candidate_gates
from attar.proof.verdicts.gate_text import format_limit, format_metric, format_value
from attar.proof.verdicts.limits import GateLimits
from attar.stages.measure.bench import OptimizeFor, choose_timed_batch

SCORE_METRICS: frozenset[Metric] = frozenset({"score", "score_drop", "agreement"})
"""Shares of samples: they move by whole samples."""
Seconds = Mapping[str, npt.NDArray[np.float64]]
"""Seconds of a call by candidate; entry i of all is from the same round."""


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
    optimize_for: OptimizeFor = 1
    """The batch size at which the fastest is sought. A target that lists two, 1 and a larger one,
    has an engine for each."""

    def run(self, out: Path, *, trials: Trials) -> Facts:
        """Raises StageError if every candidate is refused, with the reasons."""
        measured = measurements_from_json(trials.facts)
        candidates, ledger = measured.candidates, measured.ledger
        hops = {name: each.hop for name, each in candidates.items() if each.hop}
        gates = {
            name: evaluate_candidate_gates(ledger, hop, self.gates) for name, hop in hops.items()
        }
        drops = {name: hop.comparisons["previous", "score_drop"] for name, hop in hops.items()}
        batch = choose_timed_batch(self.optimize_for, ledger.batch)
        seconds = load_seconds(trials, find_eligible(gates, drops), batch)
        ratios = compute_latency_ratios(seconds, candidates, batch)
        winner = select_winner(candidates, ratios, batch)
        results = {
            name: describe_result(each, gates.get(name, ()), winner, ratios)
            for name, each in candidates.items()
        }
        best = results[winner]
        choice = CandidateChoice(
            winner=winner,
            has_passed=best.verdict == "passed",
            summary=f"{best.title} goes on: {best.reason}",
            split=ledger.split,
            samples=ledger.samples,
            score_name=ledger.score_name,
            batch=ledger.batch,
            timing=ledger.timing,
            candidates=tuple(results.values()),
        )
        return dict(to_json(choice))


def describe_result(
    candidate: CandidateMeasurement,
    gates: Sequence[Gate],
    winner: str,
    ratios: Mapping[str, LatencyRatio],
) -> CandidateResult:
    """Return a candidate beside the others, with the reason why it goes on or does not."""
    reason = explain_choice(candidate, winner, gates, ratios)
    name, title, status, hop = candidate.name, candidate.title, candidate.status, candidate.hop
    if hop is None:
        return CandidateResult(name, title, status, status, reason)
    return CandidateResult(
        name,
        title,
        status,
        combine_verdicts(gate.verdict for gate in gates),
        reason,
        score=hop.get_score(),
        score_drop=hop.get_value("teacher", "score_drop"),
        correlation=hop.get_value("teacher", "correlation"),
        p50={batch: summary.p50 for batch, summary in hop.latencies.items()},
        size_bytes=hop.size_bytes,
        threads=candidate.threads,
        latency_ratio=ratios.get(name),
    )


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


def load_seconds(trials: Trials, names: Sequence[str], batch: int) -> Seconds:
    seconds = load_file(trials.root / "seconds.safetensors") if names else {}
    return {name: seconds[f"{name}.{batch}"] for name in names}


def compute_latency_ratios(
    seconds: Seconds, candidates: Mapping[str, CandidateMeasurement], batch: int
) -> dict[str, LatencyRatio]:
    """Return the latency of each candidate, divided by that of the fastest: the median over rounds.

    Both take their turn in every round, and the ratio is taken within a round.
    """
    if not seconds:
        return {}
    fastest = min(seconds, key=lambda name: candidates[name].get_p50(batch))
    ratios = {name: taken / seconds[fastest] for name, taken in seconds.items()}
    return {
        name: LatencyRatio(float(np.median(ratio)), statistics.bound_median(ratio))
        for name, ratio in ratios.items()
    }


def select_winner(
    candidates: Mapping[str, CandidateMeasurement],
    ratios: Mapping[str, LatencyRatio],
    batch: int,
) -> str:
    """Return the candidate that goes on; see `Choose`.

    Raises StageError if there is nothing to choose from.
    """
    hops = {name: each.hop for name, each in candidates.items() if each.hop}
    names = list(hops)
    if ratios:
        by_speed = sorted(ratios, key=lambda name: candidates[name].get_p50(batch))
        names = [name for name in by_speed if is_tied_with_fastest(ratios[name])]
    if names:  # of equals the first, which has the least median
        return max(names, key=lambda name: rank_similarity(hops[name]))
    absent = [name for name, each in candidates.items() if each.status == "not run here"]
    if absent:
        return absent[0]
    reasons = "; ".join(f"{each.title}: {each.why}" for each in candidates.values())
    raise StageError(
        f"no candidate is left. {reasons}. Add one that can be built, "
        "such as { precision = 'fp32' }"
    )


def is_tied_with_fastest(ratio: LatencyRatio) -> bool:
    """Whether its latency, divided by that of the fastest, is not proven to be above 1."""
    return ratio.bounds.low <= 1


def rank_similarity(hop: Hop) -> tuple[float, float]:
    """Return how close to the teacher it is: the correlation first, which sees more than a score.

    With a teacher that only translates nothing correlates, and agreement stands for it.
    """
    drop = hop.get_value("teacher", "score_drop") or 0.0
    known = (hop.get_value("teacher", metric) for metric in ("correlation", "agreement"))
    return next((value for value in known if value is not None), 0.0), -drop


def explain_choice(
    candidate: CandidateMeasurement,
    winner: str,
    gates: Sequence[Gate],
    ratios: Mapping[str, LatencyRatio],
) -> str:
    """Return why a candidate goes on or does not."""
    name = candidate.name
    if candidate.hop is None:
        first = "; none runs here, and it is the first" if name == winner else ""
        return f"{candidate.status}: {candidate.why}{first}"
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
