"""The candidates of a target in words: what was measured of each, and whether it goes on."""

from __future__ import annotations

from dataclasses import dataclass

from attar.proof.candidates import CandidateChoice, CandidateResult
from attar.proof.report import formatting


@dataclass(frozen=True)
class CandidateRow:
    """A row of the table."""

    name: str
    title: str
    verdict: str
    """``passed``, ``failed``, ``undecided``, ``refused`` or ``not run here``."""
    measured: bool
    goes_on: bool
    score: str
    drop: str
    correlation: str
    p50: str
    batched: str
    """As ``p50``, at the target's batch size."""
    size: str
    reason: str


def list_candidates(choice: CandidateChoice | None) -> list[CandidateRow]:
    """Return a row for each, in the recipe's order; none if nothing was chosen."""
    return [build_candidate(each, choice) for each in choice.candidates] if choice else []


def build_candidate(result: CandidateResult, choice: CandidateChoice) -> CandidateRow:
    return CandidateRow(
        name=result.name,
        title=formatting.strip_controls(result.title),
        verdict=result.verdict,
        measured=result.status == "measured",
        goes_on=result.name == choice.winner,
        score=formatting.format_score(result.score),
        drop=formatting.format_score(result.score_drop),
        correlation=formatting.format_score(result.correlation),
        p50=formatting.format_microseconds(result.p50.get(1)),
        batched=formatting.format_microseconds(result.p50.get(choice.batch)),
        size=formatting.format_bytes(result.size_bytes),
        reason=formatting.typeset_minus(formatting.strip_controls(result.reason)),
    )


def describe_trials(choice: CandidateChoice) -> str:
    """Return how they were compared, in one sentence."""
    timing = choice.timing
    if timing is None:
        return "None of them was run here."
    rounds = formatting.format_count(max(timing.rounds.values()))
    samples = formatting.format_count(choice.samples)
    threads = (
        "on one pinned thread"
        if timing.threads == 1
        else "each on its own threads, none of them pinned"
    )
    load = " to ".join(dict.fromkeys(f"{number:.1f}" for number in timing.load_average))
    return (
        f"All answered the same {samples} samples of the {choice.split} split and were timed in "
        f"the same {rounds} rounds, {threads}, at a load average of {load}."
    )
