"""The candidates of a target in words: what each answered on validation, how fast, and why it goes on or does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attar.proof.report import words
from attar.proof.report.target import Target, number


@dataclass(frozen=True)
class Candidate:
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


def candidates(target: Target) -> list[Candidate]:
    """In the recipe's order; none where nothing was chosen."""
    return [candidate(row, target.choice) for row in target.candidates]


def candidate(row: Mapping[str, Any], choice: Mapping[str, Any]) -> Candidate:
    return Candidate(
        name=row["candidate"],
        title=words.clean(row["title"]),
        verdict=row["verdict"],
        measured=row["status"] == "measured",
        goes_on=row["candidate"] == choice["winner"],
        score=words.score(number(row, "score")),
        drop=words.score(number(row, "score_drop")),
        correlation=words.score(number(row, "correlation")),
        p50=words.micro(number(row, "p50", "1")),
        batched=words.micro(number(row, "p50", str(choice["batch"]))),
        size=words.size(number(row, "bytes")),
        reason=words.minus(words.clean(row["reason"])),
    )


def tried(target: Target) -> str:
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
        f"All answered the same {words.count(choice['samples'])} samples of the {choice['split']} split and were timed in the "
        f"same {words.count(rounds)} rounds, {threads}, at a load average of {load}."
    )
