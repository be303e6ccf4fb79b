"""The JSON of candidates: in the facts of their measurements and of the choice among them.

It is written and read here alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.proof.bounds import ConfidenceBounds, Estimate
from attar.proof.candidates import (
    CandidateChoice,
    CandidateLedger,
    CandidateMeasurement,
    CandidateResult,
)
from attar.proof.ledger_json import (
    answers_to_json,
    conditions_to_json,
    hop_from_json,
    hop_to_json,
    ledger_from_json,
    timing_from_json,
    timing_to_json,
)


def measurements_to_json(measured: CandidateLedger) -> dict[str, Any]:
    hops = measured.ledger.hops.values()
    return {
        **conditions_to_json(measured.ledger),
        "hops": [{"hop": hop.name, "status": "measured", **answers_to_json(hop)} for hop in hops],
        "candidates": [measurement_to_json(each) for each in measured.candidates.values()],
    }


def measurement_to_json(candidate: CandidateMeasurement) -> dict[str, Any]:
    row: dict[str, Any] = {
        "candidate": candidate.name,
        "title": candidate.title,
        "asked": dict(candidate.settings),
        "status": candidate.status,
        "why": candidate.why,
    }
    if candidate.hop is None:
        return row
    columns = {**hop_to_json(candidate.hop), "threads": candidate.threads}
    return row | {name: columns[name] for name in columns if name not in ("hop", "memory")}


def measurements_from_json(facts: Mapping[str, Any]) -> CandidateLedger:
    candidates = [measurement_from_json(row, facts["samples"]) for row in facts["candidates"]]
    return CandidateLedger(ledger_from_json(facts), {each.name: each for each in candidates})


def measurement_from_json(row: Mapping[str, Any], samples: int) -> CandidateMeasurement:
    is_measured = row["status"] == "measured"
    return CandidateMeasurement(
        name=row["candidate"],
        title=row["title"],
        settings=row.get("asked", {}),
        status=row["status"],
        why=row["why"],
        hop=hop_from_json(row, "model", samples) if is_measured else None,
        threads=row.get("threads"),
    )


def choice_to_json(choice: CandidateChoice) -> dict[str, Any]:
    return {
        "split": choice.split,
        "samples": choice.samples,
        "score_name": choice.score_name,
        "batch": choice.batch,
        "timing": None if choice.timing is None else timing_to_json(choice.timing),
        "winner": choice.winner,
        "passed": choice.has_passed,
        "summary": choice.summary,
        "candidates": [result_to_json(result) for result in choice.candidates],
    }


def choice_from_json(facts: Mapping[str, Any]) -> CandidateChoice:
    return CandidateChoice(
        winner=facts["winner"],
        has_passed=facts["passed"],
        summary=facts["summary"],
        split=facts["split"],
        samples=facts["samples"],
        score_name=facts["score_name"],
        batch=facts["batch"],
        timing=timing_from_json(facts["timing"]),
        candidates=tuple(result_from_json(row) for row in facts["candidates"]),
    )


def result_to_json(result: CandidateResult) -> dict[str, Any]:
    ratio = result.latency_ratio
    slower = None if ratio is None else {"times": ratio.value, "bounds": list(ratio.bounds)}
    return {
        "candidate": result.name,
        "title": result.title,
        "status": result.status,
        "verdict": result.verdict,
        "reason": result.reason,
        "score": result.score,
        "score_drop": result.score_drop,
        "correlation": result.correlation,
        "p50": {str(batch): p50 for batch, p50 in result.p50.items()},
        "bytes": result.size_bytes,
        "threads": result.threads,
        "slower": slower,
    }


def result_from_json(row: Mapping[str, Any]) -> CandidateResult:
    slower = row["slower"]
    ratio = slower and Estimate(slower["times"], ConfidenceBounds(*slower["bounds"]))
    return CandidateResult(
        name=row["candidate"],
        title=row["title"],
        status=row["status"],
        verdict=row["verdict"],
        reason=row["reason"],
        score=row["score"],
        score_drop=row["score_drop"],
        correlation=row["correlation"],
        p50={int(batch): p50 for batch, p50 in row["p50"].items()},
        size_bytes=row["bytes"],
        threads=row["threads"],
        latency_ratio=ratio,
    )
