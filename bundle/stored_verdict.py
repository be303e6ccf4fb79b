"""The verdict inside a bundle, which has to follow from the gates that are stored beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from attar.bundle.fitness import AGAIN
from attar.bundle.strict_model import StrictModel
from attar.pipeline.core.errors import InvalidBundleError
from attar.proof.gate import Gate, GateVerdict, combine_verdicts
from attar.proof.verdicts.gate_evaluation import (
    GATED_HOPS,
    LOCATING_METRICS,
    SOUNDNESS_METRICS,
    list_required_hops,
    select_made,
)
from attar.proof.verdicts.gate_text import format_gate
from attar.proof.verdicts.verdict_json import GateJson, find_contradictions, gate_from_json


def check_gate(row: GateJson) -> GateJson:
    """Raises ValueError for a gate that no verdict rests on."""
    gate = gate_from_json(row)
    if gate.comparison.hop == "control":
        raise ValueError("the control is not shipped and has no gates")
    return row


class StoredVerdict(StrictModel):
    """The JSON of a verdict. ``check_verdict`` says whether it follows from its gates."""

    verdict: GateVerdict
    first_broken: str | None
    margin: float | None
    summary: str
    gates: Sequence[Annotated[GateJson, AfterValidator(check_gate)]] = Field(min_length=1)
    distillation: Mapping[str, Any] | None = None
    """Whether a student without a teacher keeps the promises, see ``proof.verdicts.control``."""

    @property
    def is_gated(self) -> bool:
        return has_teacher_gate(self.read_gates())

    def read_gates(self) -> list[Gate]:
        return [gate_from_json(row) for row in self.gates]


def has_teacher_gate(gates: Sequence[Gate]) -> bool:
    """Whether a required gate compares what is shipped with the teacher.

    Without one, nothing is known of it. The graph's gates are required only if the engine was not
    run.
    """
    return any(
        gate.required
        and gate.comparison.baseline == "teacher"
        and gate.comparison.hop in ("engine", "model")
        and gate.comparison.value is not None
        for gate in gates
    )


def check_verdict(
    bundle: Path, stored: StoredVerdict, ledger: Mapping[str, Any], *, finished: bool
) -> None:
    """Check that a bundle passed its gates.

    ``ledger`` is the JSON of what they are about. The verdict must be ``passed``, follow from the
    gates, and some gate must compare what is shipped with the teacher. A bundle that was
    ``finished`` may say ``not run here``: then every gate of what was run has passed, those of the
    engine's graph against the teacher among them.

    Raises InvalidBundleError otherwise.
    """
    if stored.verdict != "passed" and not (finished and stored.verdict == "not run here"):
        raise InvalidBundleError(
            f"{bundle} was never passed: its verdict is {stored.verdict!r}; "
            "only passed bundles are served"
        )
    if problems := list(find_problems(stored, has_reference="opaque" not in ledger)):
        raise InvalidBundleError(
            f"the verdict of {bundle} contradicts itself: {'; '.join(problems)}. {AGAIN}"
        )
    if not stored.is_gated:
        raise InvalidBundleError(
            f"{bundle} is ungated: none of its {len(stored.gates)} gates holds the engine to the "
            "teacher; promise score_drop, correlation, cosine, agreement or kdl in [gates] and "
            "package it again"
        )


def find_problems(stored: StoredVerdict, *, has_reference: bool) -> Iterator[str]:
    """Yield what does not follow from the limits and from what was measured."""
    gates = stored.read_gates()
    engine_was_run = any(is_measured_on_engine(gate) for gate in gates)
    required = [is_required(gate, engine_was_run=engine_was_run) for gate in gates]
    for row, gate_is_required in zip(stored.gates, required, strict=True):
        yield from describe_contradictions(row, required=gate_is_required)
    yield from find_missing_gates(gates, has_reference=has_reference)
    yield from find_unmeasured_gates(gates, engine_was_run=engine_was_run)
    verdicts = (gate.verdict for gate, counts in zip(gates, required, strict=True) if counts)
    if (expected := combine_verdicts(verdicts)) != stored.verdict:
        yield f"its gates amount to {expected!r}, it says {stored.verdict!r}"


def is_measured_on_engine(gate: Gate) -> bool:
    return gate.comparison.hop == "engine" and gate.comparison.value is not None


def is_required(gate: Gate, *, engine_was_run: bool) -> bool:
    """Whether the verdict has to depend on the gate; see ``evaluate_gates``."""
    comparison = gate.comparison
    if comparison.hop == "production":
        return False
    if comparison.hop in list_required_hops(engine_was_run=engine_was_run):
        return True
    return comparison.baseline != "teacher" and comparison.metric not in LOCATING_METRICS


def describe_contradictions(row: GateJson, *, required: bool) -> Iterator[str]:
    gate = format_gate(gate_from_json(row))
    stored: Mapping[str, object] = dict(row)
    for name, expected in find_contradictions(row, required=required).items():
        yield f"{gate}, so {name!r} is {expected!r}, not {stored[name]!r}"


def find_missing_gates(gates: Sequence[Gate], *, has_reference: bool) -> Iterator[str]:
    present = {(gate.comparison.hop, gate.comparison.metric) for gate in gates}
    hops = select_made(GATED_HOPS, has_reference=has_reference)
    for hop, metric in product(hops, SOUNDNESS_METRICS):
        if (hop, metric) not in present:
            yield f"no gate {metric!r} is there for the {hop}"


def find_unmeasured_gates(gates: Sequence[Gate], *, engine_was_run: bool) -> Iterator[str]:
    for gate in gates:
        comparison = gate.comparison
        may_be_unmeasured = comparison.hop == "engine" and not engine_was_run
        if comparison.value is None and not may_be_unmeasured:
            yield (
                f"{comparison.metric} of the {comparison.hop} was not run, "
                "which only all gates of an engine together may be"
            )
