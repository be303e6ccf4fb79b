"""The report for programs: the object that ``--json`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.proof.ledger.ledger_json import to_json
from attar.proof.report.record import Record
from attar.proof.report.target import NO_VERDICT, Target, group_targets
from attar.proof.verdicts.verdict_json import gates_to_json


def build_data(records: Sequence[Record]) -> dict[str, Any]:
    """Return ``{"slots": [...], "targets": {NAME: {"verdict", "gates", "bundle"}}}``, plain JSON
    values.

    A target with candidates has ``winner`` and ``candidates`` (see ``proof.ledger.candidates``).
    A target without evaluated gates has the verdict null.
    """
    return {
        "slots": [describe_slot(record) for record in records],
        "targets": {t.name: describe_target(t) for t in group_targets(records)},
    }


def describe_slot(record: Record) -> dict[str, Any]:
    return {
        "slot": record.slot,
        "status": record.status,
        "reused": record.status == "reused",
        "reason": record.reason,
        "key": record.key,
        "path": None if record.path is None else str(record.path),
        "seconds": round(record.seconds, 3),
        "facts": make_plain(record.facts),
        "error": record.error,
    }


def describe_target(one: Target) -> dict[str, Any]:
    choice, chosen = one.choice, {}
    if choice is not None:
        chosen = {"winner": choice.winner, "candidates": to_json(choice)["candidates"]}
    return {
        "verdict": None if one.verdict == NO_VERDICT else one.verdict,
        "gates": gates_to_json(one.gates),
        "bundle": None if one.bundle is None else str(one.bundle),
        **chosen,
    }


def make_plain(value: Any) -> Any:
    """The same value of dicts, lists and scalars, which is all that ``json`` writes."""
    if isinstance(value, Mapping):
        return {str(name): make_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
