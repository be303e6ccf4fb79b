"""The JSON of what was measured of candidates. That of a choice has the fields as its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.proof.ledger.candidates import (
    CandidateLedger,
    CandidateMeasurement,
)
from attar.proof.ledger.ledger_json import (
    answers_to_json,
    conditions_to_json,
    hop_from_json,
    hop_to_json,
    ledger_from_json,
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
