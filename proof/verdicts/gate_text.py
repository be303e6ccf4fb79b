"""A gate in plain text, for the summary of a verdict and for messages."""

from __future__ import annotations

from collections.abc import Mapping

from attar.proof.gate import UPPER_LIMIT_METRICS, Gate, Metric
from attar.proof.ledger.ledger import LeakCheck, Ledger

LIMIT_TEXTS: Mapping[Metric, str] = {
    "sound": "no NaN, no infinity, not constant",
    "sizes": "a sound answer at every promised size",
}
METRIC_NAMES: Mapping[Metric, str] = {
    "sound": "samples without a usable answer",
    "sizes": "sizes without a sound answer",
    "leak": "share of test samples that are nearly training samples",
    "loop": "samples to which the loop gives other tokens than its parts",
    "endless": "share of sequences without an end",
}


def format_limit(gate: Gate) -> str:
    """Return the limit: ``at most 0.025``."""
    metric = gate.comparison.metric
    side = "most" if metric in UPPER_LIMIT_METRICS else "least"
    return LIMIT_TEXTS.get(metric) or f"at {side} {gate.limit:g}"


def format_value(gate: Gate) -> str:
    """Return the evidence: ``0.0111 (0.0081 to 0.0142)``."""
    value, bounds = gate.comparison.value, format_bounds(gate)
    if value is None:
        return "not run here"
    return f"{value:.4g} ({bounds})" if bounds else f"{value:.4g}"


def format_bounds(gate: Gate) -> str:
    """Return the bounds: ``0.0081 to 0.0142``; an empty string if there are none."""
    bounds = gate.comparison.bounds
    return f"{bounds.low:.4g} to {bounds.high:.4g}" if bounds else ""


def format_missing_evidence(gate: Gate) -> str | None:
    """Return how much evidence would decide an undecided gate: ``about 900 samples``."""
    if gate.verdict != "undecided":
        return None
    count = gate.deciding_sample_size
    unit = "rounds" if gate.comparison.metric == "speedup" else "samples"
    return "at the limit: no number decides" if count is None else f"about {count:,} {unit}"


def format_remedy(gate: Gate) -> str:
    """Return what would decide an undecided gate, as the end of a sentence."""
    evidence = format_missing_evidence(gate) or ""
    return f"{evidence} would decide" if evidence.startswith("about") else evidence


def format_kept_gate(gate: Gate) -> str:
    """Return a gate that passed: ``score drop 0.0111 (0.0081 to 0.0142; at most 0.025)``."""
    comparison = gate.comparison
    inside = "; ".join(filter(None, [format_bounds(gate), format_limit(gate)]))
    baseline = " against production" if comparison.baseline == "production" else ""
    return f"{format_metric(comparison.metric)}{baseline} {comparison.value:.4g} ({inside})"


def format_gate(gate: Gate) -> str:
    """Return a sentence: ``engine: kdl 0.2 (0.1 to 0.3), promised at most 0.1``."""
    comparison = gate.comparison
    name = METRIC_NAMES.get(comparison.metric) or format_metric(comparison.metric)
    is_named = comparison.baseline in ("previous", "production")
    baseline = f" against {comparison.baseline_name}" if is_named else ""
    note = f" ({gate.note})" if gate.note else ""
    evidence = f"{format_value(gate)}{note}, promised {format_limit(gate)}"
    return f"{comparison.hop}: {name}{baseline} {evidence}"


def format_metric(metric: Metric) -> str:
    return metric.replace("_", " ")


def explain_unchecked_leak(leak: LeakCheck | None) -> str:
    """Return the end of a summary that says why near-duplicates were not looked for."""
    if leak is None or not leak.why_unchecked:
        return ""
    return (
        ". Near-duplicates between test and training samples were not looked for: "
        f"{leak.why_unchecked}"
    )


def explain_unmeasured(ledger: Ledger) -> str:
    """Return the end of a summary that says why probabilities were not compared."""
    if ledger.why_opaque is None:
        return ""
    return f". CORR and KDL with the teacher were not measured: {ledger.why_opaque}"


def explain_idle_drop(ledger: Ledger, limit: float | None) -> str:
    """Return the end of a summary that says that a promised score drop refuses no engine: it was
    given in percent, for example, and the score is a share."""
    score = ledger.hops["teacher"].score
    if limit is None or score is None or score.value is None or not 0 < score.value <= limit:
        return ""
    return (
        f"; a score drop of at most {limit:g} is kept by a score of 0 too, since drops are in "
        "units of the score and not in percent"
    )
