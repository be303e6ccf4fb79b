"""The JSON of gates and verdicts: in facts, in the manifest of a bundle and in the report.

It is written and read here alone. ``promise``, ``margin``, ``verdict`` and ``would_decide`` are
written for readers; a gate computes them from the other fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from attar.proof.estimates.bounds import ConfidenceBounds, Estimate
from attar.proof.gate import Baseline, Comparison, Gate, GateVerdict, Metric
from attar.proof.hop import HopName
from attar.proof.verdicts.control import ControlVerdict
from attar.proof.verdicts.gate_text import format_limit, format_missing_evidence
from attar.proof.verdicts.verdict import TargetVerdict


@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class GateJson(TypedDict):
    """The keys of one gate."""

    gate: Metric
    hop: HopName
    against: Baseline
    promise: str
    limit: float
    measured: float | None
    samples: Annotated[int | None, Field(ge=1)]
    margin: float | None
    verdict: GateVerdict
    decides: bool
    note: str | None
    bounds: Annotated[list[float] | None, Field(min_length=2, max_length=2)]
    would_decide: str | None


def gate_to_json(gate: Gate) -> GateJson:
    comparison = gate.comparison
    return {
        "gate": comparison.metric,
        "hop": comparison.hop,
        "against": comparison.baseline,
        "promise": format_limit(gate),
        "limit": gate.limit,
        "measured": comparison.value,
        "samples": comparison.sample_size,
        "margin": gate.margin,
        "verdict": gate.verdict,
        "decides": gate.required,
        "note": gate.note,
        "bounds": None if comparison.bounds is None else list(comparison.bounds),
        "would_decide": format_missing_evidence(gate),
    }


def gate_from_json(row: GateJson) -> Gate:
    """Raises ValueError for a comparison that cannot be, and for a metric without a limit."""
    bounds = None if row["bounds"] is None else ConfidenceBounds(*row["bounds"])
    comparison = Comparison(
        row["gate"], row["hop"], row["against"], row["measured"], bounds, row["samples"]
    )
    return Gate(comparison, row["limit"], row["decides"], row["note"])


def find_contradictions(row: GateJson, *, required: bool) -> dict[str, object]:
    """Return the fields of a stored gate that do not follow from its limit and evidence.

    Each has the value that follows. ``required`` is what ``decides`` has to be.
    """
    expected = gate_to_json(replace(gate_from_json(row), required=required))
    stored: Mapping[str, object] = dict(row)
    return {name: value for name, value in expected.items() if stored[name] != value}


def verdict_to_json(verdict: TargetVerdict) -> dict[str, Any]:
    control = verdict.control
    return {
        "verdict": verdict.verdict,
        "first_broken": verdict.first_broken_hop,
        "margin": verdict.margin,
        "gates": gates_to_json(verdict.gates),
        "summary": verdict.summary,
        "distillation": None if control is None else control_to_json(control),
    }


def verdict_from_json(facts: Mapping[str, Any]) -> TargetVerdict:
    control = facts.get("distillation")
    return TargetVerdict(
        verdict=facts["verdict"],
        first_broken_hop=facts["first_broken"],
        margin=facts["margin"],
        summary=facts["summary"],
        gates=gates_from_json(facts["gates"]),
        control=None if control is None else control_from_json(control),
    )


def control_to_json(control: ControlVerdict) -> dict[str, Any]:
    return {
        "needed": control.is_distillation_needed,
        "gain": control.gain.value,
        "bounds": list(control.gain.bounds),
        "gates": gates_to_json(control.gates),
        "says": control.summary,
    }


def control_from_json(facts: Mapping[str, Any]) -> ControlVerdict:
    return ControlVerdict(
        is_distillation_needed=facts["needed"],
        gain=Estimate(facts["gain"], ConfidenceBounds(*facts["bounds"])),
        gates=gates_from_json(facts["gates"]),
        summary=facts["says"],
    )


def gates_to_json(gates: Sequence[Gate]) -> list[GateJson]:
    return [gate_to_json(gate) for gate in gates]


def gates_from_json(rows: Sequence[GateJson]) -> tuple[Gate, ...]:
    return tuple(gate_from_json(row) for row in rows)
