"""Trials: one variant trained on the stored answers, and measured on validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from attar.pipeline.core.errors import StageError, StoppedError
from attar.pipeline.core.progress import listen_to_epochs
from attar.pipeline.core.stage import Facts
from attar.pipeline.run import Record
from attar.pipeline.team import TeamError
from attar.proof.gate import Gate
from attar.proof.ledger.candidates import CandidateMeasurement
from attar.proof.ledger.candidates_json import measurements_from_json
from attar.proof.ledger.ledger import Hop
from attar.proof.verdicts.gate_evaluation import evaluate_candidate_gates
from attar.search.recipe_search import RecipeSearch
from attar.search.speeds import Show
from attar.search.stopping import StoppingRule
from attar.search.store_failures import check_store_failure
from attar.search.variant import Variant
from attar.stages.choose.stage import format_open_gate

STUDENT = "student"
SCORES = ("score", "score_drop")
"""Promises about what a training is stopped by."""


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
    breaks_score: bool
    """Whether one of them is about the score."""


@dataclass(frozen=True)
class TrialPlan:
    """What a trial is asked to do."""

    variant: Variant
    rule: StoppingRule


@dataclass(frozen=True)
class TrialOutcome:
    scores: Mapping[int, float]
    """Of the student on validation, by epoch."""
    candidates: Sequence[CandidateOutcome] = ()
    """Empty if the training was stopped early."""
    teacher_score: float | None = None
    noise: float = 0.0
    """How far the teacher's score on validation is from its lower bound."""
    score_name: str = "score"

    @property
    def epochs(self) -> int:
        return max(self.scores, default=0)


TrialEnd = TrialOutcome | StageError
"""How a trial ended. The failure of one says nothing of the others."""


@dataclass(frozen=True)
class StudentTraining:
    """A student of a trial, or what was trained of it until it was stopped."""

    scores: Mapping[int, float]
    stopped: bool


def run_trial(search: RecipeSearch, plan: TrialPlan, show: Show) -> TrialOutcome:
    """Train a variant and measure its engines, or reuse what the store has of it.

    Raises StageError if a slot breaks, StoreError if the store fails.
    """
    training = train_student(search, plan, show)
    if training.stopped:
        return TrialOutcome(training.scores)
    return measure_engines(search, plan.variant, training, show)


def train_student(search: RecipeSearch, plan: TrialPlan, show: Show) -> StudentTraining:
    """Train the student of a variant until its rule stops it. One that is whole is not stopped:
    none of its epochs can be saved.

    Raises StageError if a slot breaks.
    """
    scores: dict[int, float] = {}

    def hear(network: str, entry: Mapping[str, float]) -> None:
        if network == STUDENT:
            epoch = int(entry["epoch"])
            scores[epoch] = entry["score"]
            if plan.rule.stops(epoch, entry["score"]):
                raise StoppedError("another variant is ahead")

    facts: Facts = {}
    try:
        with listen_to_epochs(hear):
            for record in walk_trial(search, plan.variant, STUDENT, show):
                if isinstance(record.cause, StoppedError):
                    return StudentTraining(scores, stopped=True)
                facts = check_record(plan.variant, record)
    except TeamError as error:
        if isinstance(error.__cause__, StoppedError):
            return StudentTraining(scores, stopped=True)
        raise
    history = facts["history"]
    whole = {int(entry["epoch"]): float(entry["score"]) for entry in history}
    return StudentTraining(whole, stopped=False)


def measure_engines(
    search: RecipeSearch, variant: Variant, training: StudentTraining, show: Show
) -> TrialOutcome:
    """Measure the engines of a trained variant on validation. Raises StageError if a slot breaks,
    and if no engine runs here."""
    facts: Facts = {}
    for record in walk_trial(search, variant, f"{search.target}.trials", show):
        facts = check_record(variant, record)
    measured = measurements_from_json(facts)
    limits = search.limits
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
    name = measured.ledger.score_name
    return TrialOutcome(training.scores, outcomes, teacher.value, noise, name)


def walk_trial(search: RecipeSearch, variant: Variant, last: str, show: Show) -> Iterator[Record]:
    """Yield the records up to a slot, and show those that were not reused."""
    workspace = search.open_trial(variant)
    for record in workspace.run.walk(workspace.recipe.pipeline.up_to({last})):
        if record.status != "reused" and not isinstance(record.cause, StoppedError):
            show(replace(record, slot=f"{variant.name} {record.slot}"))
        yield record


def check_record(variant: Variant, record: Record) -> Facts:
    """Return the facts of a record. Raises StageError if its slot broke, StoreError if the store
    failed."""
    check_store_failure(record)
    if record.error:
        raise StageError(f"{variant.title}: {record.error}") from record.cause
    return record.facts


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
        breaks_score=any(gate.comparison.metric in SCORES for gate in broken),
    )


def compute_shortfall(gate: Gate) -> float:
    """Return by how much a measured value violates its limit, as a share of the limit."""
    return -(gate.margin or 0.0) / (abs(gate.limit) or 1.0)
