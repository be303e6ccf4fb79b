"""Trials: one variant trained on the stored answers, and measured on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar.pipeline.core.errors import StageError, StoppedError
from attar.pipeline.core.progress import listen_to_epochs
from attar.pipeline.run import Record
from attar.proof.gate import Gate
from attar.proof.ledger.candidates import CandidateMeasurement
from attar.proof.ledger.candidates_json import measurements_from_json
from attar.proof.ledger.ledger import Hop
from attar.proof.verdicts.gate_evaluation import evaluate_candidate_gates
from attar.proof.verdicts.limits import GateLimits
from attar.search.variant import QUALITY, Search, Variant
from attar.stages.choose.stage import format_open_gate

ScoreListener = Callable[[int, float], None]
"""Called with an epoch and the student's score on validation. It may raise StoppedError."""
STUDENT = "student"


@dataclass(frozen=True)
class CandidateOutcome:
    """One engine of a trained variant, judged on validation."""

    name: str
    title: str
    score: float | None
    correlation: float | None
    agreement: float | None
    size_bytes: int
    broken: tuple[str, ...]
    """The promises whose measured values violate their limits."""
    shortfall: float
    breaks_answers: bool
    """Whether one of them is about the answers, not about speed."""


@dataclass(frozen=True)
class TrialOutcome:
    epochs: int
    candidates: Sequence[CandidateOutcome]
    """Empty if the training was stopped early."""
    teacher_score: float | None = None
    noise: float = 0.0
    """How far the teacher's score on validation is from its lower bound."""
    score_name: str = "score"


def run_trial(
    search: Search,
    variant: Variant,
    limits: GateLimits,
    listen: ScoreListener,
    show: Callable[[Record], None],
) -> TrialOutcome:
    """Train a variant and measure its engines, or reuse what the store has of it.

    Raises StageError if a slot breaks.
    """
    workspace = search.open_trial(variant)
    slots = workspace.recipe.pipeline.up_to({f"{search.target}.trials"})
    epochs = 0

    def hear(network: str, entry: Mapping[str, float]) -> None:
        nonlocal epochs
        if network == STUDENT:
            epochs = int(entry["epoch"])
            listen(epochs, entry["score"])

    facts: Mapping[str, Any] = {}
    with listen_to_epochs(hear):
        for record in workspace.run.walk(slots):
            if isinstance(record.cause, StoppedError):
                return TrialOutcome(epochs, ())
            if record.status != "reused":
                show(replace(record, slot=f"{variant.name} {record.slot}"))
            if record.error:
                raise StageError(f"{variant.title}: {record.error}") from record.cause
            if record.slot == STUDENT and record.status == "reused":
                epochs = replay_history(record, listen)
            facts = record.facts
    measured = measurements_from_json(facts)
    outcomes = [
        judge_candidate(each, each.hop, evaluate_candidate_gates(measured.ledger, each.hop, limits))
        for each in measured.candidates.values()
        if each.hop is not None
    ]
    if not outcomes:
        reasons = dict.fromkeys(each.why for each in measured.candidates.values() if each.why)
        raise StageError(f"{variant.title}: no engine was measured: {'; '.join(reasons)}")
    teacher = measured.ledger.hops["teacher"].score
    if teacher is None or teacher.value is None or teacher.bounds is None:
        raise StageError(f"{variant.title}: the teacher has no score on validation")
    noise = teacher.value - teacher.bounds.low
    return TrialOutcome(epochs, outcomes, teacher.value, noise, measured.ledger.score_name)


def replay_history(record: Record, listen: ScoreListener) -> int:
    """Report the epochs of a student that is there already. None of them can be saved."""
    history = record.facts["history"]
    for entry in history:
        try:
            listen(int(entry["epoch"]), float(entry["score"]))
        except StoppedError:
            continue
    return len(history)


def judge_candidate(
    candidate: CandidateMeasurement, hop: Hop, gates: Sequence[Gate]
) -> CandidateOutcome:
    broken = [gate for gate in gates if gate.exceeds_limit]
    return CandidateOutcome(
        name=candidate.name,
        title=candidate.title,
        score=hop.get_score(),
        correlation=hop.get_value("teacher", "correlation"),
        agreement=hop.get_value("teacher", "agreement"),
        size_bytes=hop.size_bytes or 0,
        broken=tuple(format_open_gate(gate) for gate in broken),
        shortfall=max(map(compute_shortfall, broken), default=0.0),
        breaks_answers=any(gate.comparison.metric in QUALITY for gate in broken),
    )


def compute_shortfall(gate: Gate) -> float:
    """Return by how much a measured value violates its limit, as a share of the limit."""
    return -(gate.margin or 0.0) / (abs(gate.limit) or 1.0)
