"""Judge: a verdict and one sentence about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attar.proof.artifacts import Evidence
from attar.proof.verdicts.limits import GateLimits
from attar.stages.judge import Judge
from tests.support.proof.proof_parts import a_ledger, hop, line, metrics


def judged(ledger: dict[str, Any]) -> dict[str, Any]:
    return dict(Judge(gates=GateLimits(score_drop=0.025)).run(Path(), evidence=Evidence("key", "digest", Path(), ledger)))


def test_the_facts_are_the_verdict_and_its_gates() -> None:
    facts = judged(a_ledger())
    assert facts["verdict"] == "passed"
    assert facts["distillation"] is None
    shown = {"gate", "hop", "against", "promise", "limit", "measured", "bounds", "samples", "margin", "verdict", "decides"}
    shown |= {"note", "would_decide"}
    assert all(row.keys() == shown for row in facts["gates"])
    assert [row["hop"] for row in facts["gates"] if row["gate"] == "score_drop" and row["against"] == "teacher"] == [
        "student", "onnx", "model", "engine"
    ]  # fmt: skip  # the order of the chain, on one line


def test_a_failed_verdict_is_a_result() -> None:
    ledger = a_ledger()
    line(ledger, "engine")["teacher"] = metrics(score_drop=0.5)
    assert judged(ledger)["verdict"] == "failed"


def test_it_says_when_distillation_was_not_needed() -> None:
    ledger = a_ledger() | {"gain": {"score": 0.01, "bounds": [-0.01, 0.03]}}
    ledger["hops"].append(hop("control", None, score_drop=0.01))
    assert judged(ledger)["distillation"]["needed"] is False
    line(ledger, "control")["teacher"] = metrics(score_drop=0.1)
    assert judged(ledger)["distillation"]["needed"] is True


def test_gates_of_a_recipe_reach_it_as_plain_data() -> None:
    stage = Judge.model_validate({"gates": {"score_drop": 0.01, "hops": {"largest_difference": 1e-2}}})
    assert (stage.gates.score_drop, stage.gates.hops.largest_difference, stage.gates.hops.correlation) == (0.01, 1e-2, 0.98)


@pytest.mark.parametrize(("limit", "is_idle"), [(0.025, False), (5, True)])
def test_a_score_drop_that_refuses_no_engine_is_told(limit: float, is_idle: bool) -> None:
    stage = Judge(gates=GateLimits(score_drop=limit))
    summary = stage.run(Path(), evidence=Evidence("key", "digest", Path(), a_ledger()))["summary"]
    assert ("; a score drop of at most 5 is kept by a score of 0 too, since drops are in units of" in summary) is is_idle
