"""Control: what is said of distillation, from ledgers made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.verdicts.control import judge_control
from attar.proof.verdicts.limits import GateLimits
from attar.proof.verdicts.verdict_json import control_to_json
from tests.support.proof.proof_parts import a_ledger, hop, line, metrics

GATES = GateLimits(score_drop=0.025, correlation=0.95)


def a_control(gain: float = 0.01, within: float = 0.005, **changed: float) -> dict[str, Any]:
    ledger = a_ledger() | {"gain": {"score": gain, "bounds": [gain - within, gain + within]}}
    ledger["hops"].append(hop("control", None, **changed))
    return ledger


def said(ledger: dict[str, Any], gates: GateLimits = GATES) -> dict[str, Any]:
    found = judge_control(ledger_from_json(ledger), gates)
    assert found is not None
    return control_to_json(found)


def test_without_a_control_or_a_promise_nothing_is_said() -> None:
    assert judge_control(ledger_from_json(a_ledger()), GATES) is None
    assert judge_control(ledger_from_json(a_control()), GateLimits(teacher_score=0.9)) is None


def test_a_control_that_keeps_every_promise_needed_no_teacher() -> None:
    found = said(a_control(score_drop=0.01, correlation=0.96))
    assert found["needed"] is False
    assert found["says"] == (
        "distillation was not needed: the same student without a teacher keeps every promise: score drop 0.01 (0.01 to 0.01; at "
        "most 0.025), correlation 0.96 (0.96 to 0.96; at least 0.95); it gained +0.0100 (+0.0050 to +0.0150) in accuracy"
    )
    assert [row["hop"] for row in found["gates"]] == ["control", "control"]
    assert not any(row["decides"] for row in found["gates"])


def test_one_broken_promise_is_what_the_teacher_was_needed_for() -> None:
    found = said(a_control(score_drop=0.01, correlation=0.9))
    assert found["needed"] is True
    assert "correlation 0.9 (0.9 to 0.9)" in found["says"]
    assert "score drop" not in found["says"]


def test_bounds_across_the_limit_leave_it_open() -> None:
    ledger = a_control()
    line(ledger, "control")["teacher"] = metrics(within=0.01, score_drop=0.02)
    found = said(ledger, GateLimits(score_drop=0.025))
    assert found["needed"] is None
    assert found["says"].startswith("whether distillation was needed is undecided: the same student without a teacher has score")


@pytest.mark.parametrize(
    ("gain", "told"),
    [
        (0.02, "it gained +0.0200 (+0.0100 to +0.0300) in accuracy"),
        (0.005, "no gain in accuracy is shown: +0.0050 (-0.0050 to +0.0150)"),
        (-0.02, "it cost -0.0200 (-0.0300 to -0.0100) in accuracy"),
    ],
)
def test_a_gain_is_one_when_its_bound_is_above_zero(gain: float, told: str) -> None:
    found = said(a_control(gain, within=0.01))
    assert (found["gain"], found["bounds"]) == (gain, [gain - 0.01, gain + 0.01])
    assert found["says"].endswith(told)
