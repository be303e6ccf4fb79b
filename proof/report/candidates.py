"""The candidates of a target in words: how they were compared, and why each goes on or not."""

from __future__ import annotations

from attar.proof.ledger.candidates import CandidateChoice, CandidateResult
from attar.proof.report import formatting


def format_reason(result: CandidateResult) -> str:
    """Return why it goes on or does not."""
    return formatting.typeset_minus(formatting.strip_controls(result.reason))


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
