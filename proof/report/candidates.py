"""The candidates of a target in words: what each answered on validation, how fast, and why it goes on or does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.proof.report import formatting
from attar.proof.report.target import Target, read_number


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


def list_candidates(target: Target) -> list[CandidateRow]:
    """In the recipe's order; none where nothing was chosen."""
    return [build_candidate(row, target.choice) for row in target.candidates]


def build_candidate(row: Mapping[str, Any], choice: Mapping[str, Any]) -> CandidateRow:
    return CandidateRow(
        name=row["candidate"],
        title=formatting.strip_controls(row["title"]),
        verdict=row["verdict"],
        measured=row["status"] == "measured",
        goes_on=row["candidate"] == choice["winner"],
        score=formatting.format_score(read_number(row, "score")),
        drop=formatting.format_score(read_number(row, "score_drop")),
        correlation=formatting.format_score(read_number(row, "correlation")),
        p50=formatting.format_microseconds(read_number(row, "p50", "1")),
        batched=formatting.format_microseconds(read_number(row, "p50", str(choice["batch"]))),
        size=formatting.format_bytes(read_number(row, "bytes")),
        reason=formatting.typeset_minus(formatting.strip_controls(row["reason"])),
    )


def describe_trials(target: Target) -> str:
    """How they were compared: one sentence."""
    choice, timing = target.choice, target.choice["timing"]
    if timing is None:
        return "None of them was run here."
    rounds = max(timing["rounds"].values())
    threads = (
        "on one pinned thread"
        if timing["threads"] == 1
        else "each on its own threads, none of them pinned"
    )
    load = " to ".join(dict.fromkeys(f"{each:.1f}" for each in timing["load_average"]))
    return (
        f"All answered the same {formatting.format_count(choice['samples'])} samples of the {choice['split']} split and were timed in the "
        f"same {formatting.format_count(rounds)} rounds, {threads}, at a load average of {load}."
    )
