"""One gate as every page of the report shows it: limit, baseline, evidence, and what would decide.

Numbers have the digits of the ledger; ``proof.verdicts.gate_text`` writes those of the facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from attar.proof.gate import Comparison, Gate, Metric
from attar.proof.report import formatting
from attar.proof.verdicts.gate_text import format_limit, format_remedy

BOUNDS_EXPLANATION = (
    "In brackets stand one-sided 95 % bounds of what was measured. A promise is passed when the "
    "bound is inside it, failed when the opposite bound is outside, and otherwise undecided. "
    "Counts and largest differences are exact and have none."
)
"""Stands once on every page with gates."""
METRIC_NAMES: Mapping[Metric, str] = {
    "sound": "sound answers",
    "teacher_score": "score",
    "leak": "test samples that are nearly training samples",
    "loop": "samples to which the loop gives other tokens than its parts",
    "endless": "sequences without an end",
    "kdl": "KDL",
}
"""Metrics whose name in a recipe says too little, or that no recipe names."""
COUNTED_UNITS: Mapping[Metric, str] = {"sound": "samples", "sizes": "sizes"}
"""What a yes-or-no gate counts. It has no distance to a limit."""
NUMBER_FORMATS: Mapping[Metric, Callable[[float | None], str]] = {
    "speedup": formatting.format_ratio,
    "kdl": formatting.format_small,
    "largest_difference": formatting.format_small,
}
"""How the numbers of a metric are written; the others are scores."""
BASELINE_NAMES = {
    "teacher": "the teacher",
    "reference": "the reference",
    "production": "the bundle in production",
}


def group_by_hop(gates: Sequence[Gate]) -> list[tuple[str, list[Gate]]]:
    """Return the gates of each hop, in the order in which they come."""
    return [(hop, list(group)) for hop, group in groupby(gates, lambda gate: gate.comparison.hop)]


def format_metric(comparison: Comparison) -> str:
    return METRIC_NAMES.get(comparison.metric, comparison.metric.replace("_", " "))


def format_baseline(comparison: Comparison) -> str:
    """Return ``against the teacher``; an empty string if it is compared with nothing."""
    name = comparison.baseline_name
    return "" if name == "absolute" else f"against {BASELINE_NAMES.get(name, name)}"


def format_title(comparison: Comparison) -> str:
    """Return ``score drop against the teacher``."""
    return f"{format_metric(comparison)} {format_baseline(comparison)}".strip()


def format_promise(gate: Gate) -> str:
    """Return ``at most 0.025``."""
    return formatting.typeset_minus(format_limit(gate))


def format_number(metric: Metric, value: float | None) -> str:
    return NUMBER_FORMATS.get(metric, formatting.format_score)(value)


def format_value(comparison: Comparison) -> str:
    """Return a number, a factor, or whether the answers were usable."""
    value = comparison.value
    unit = COUNTED_UNITS.get(comparison.metric)
    if unit is not None and value is not None:
        return f"no, {formatting.format_count(value)} {unit}" if value else "yes"
    return format_number(comparison.metric, value)


def format_bounds(comparison: Comparison) -> str:
    """Return ``0.0081 to 0.0142``; an empty string if the value is exact or was not measured."""
    return formatting.format_range(
        comparison.bounds, lambda value: format_number(comparison.metric, value)
    )


def format_sample_size(comparison: Comparison) -> str:
    """Return ``2 000 samples``, or rounds of timing; an empty string if the value is exact."""
    unit = "rounds" if comparison.metric == "speedup" else "samples"
    size = comparison.sample_size
    return "" if size is None else f"{formatting.format_count(size)} {unit}"


def format_evidence(comparison: Comparison) -> str:
    """Return ``0.0111 (0.0081 to 0.0142)``."""
    value, bounds = format_value(comparison), format_bounds(comparison)
    return f"{value} ({bounds})" if bounds else value


def format_margin(gate: Gate) -> str:
    """Return the signed margin; an empty string if there is no distance to a limit."""
    margin, metric = gate.margin, gate.comparison.metric
    if metric in COUNTED_UNITS or margin is None:
        return ""
    digits = format_number(metric, abs(margin))
    return f"−{digits}" if margin < 0 else f"+{digits}"


def format_note(gate: Gate) -> str:
    """Return the evidence in words, where a number says little."""
    return formatting.typeset_minus(formatting.strip_controls(gate.note or ""))


def format_evidence_and_note(gate: Gate) -> str:
    return ": ".join(filter(None, [format_evidence(gate.comparison), format_note(gate)]))


def format_claim(comparison: Comparison) -> str:
    """Return ``engine correlation against model``."""
    return f"{comparison.hop} {format_title(comparison)}"


def format_gate(gate: Gate) -> str:
    """Return ``engine correlation against model: 0.94 (0.93 to 0.95), promised at least 0.98``."""
    comparison = gate.comparison
    is_measured = comparison.value is not None
    evidence = format_evidence(comparison) if is_measured else "not run here"
    return f"{format_claim(comparison)}: {evidence}, promised {format_promise(gate)}"


def format_details(gate: Gate) -> str:
    """Return what ``format_gate`` leaves out: the note, and what would decide, or the margin."""
    margin, remedy = format_margin(gate), format_remedy(gate)
    margin_text = f"margin {margin}" if margin and not remedy else ""
    return "; ".join(filter(None, [format_note(gate), remedy, margin_text]))


def format_open_gate(gate: Gate) -> str:
    """Return a sentence about a gate that is not passed, with what would decide it."""
    parts = [f"{gate.verdict}: {format_gate(gate)}", format_note(gate), format_remedy(gate)]
    return formatting.format_sentence("; ".join(filter(None, parts)))
