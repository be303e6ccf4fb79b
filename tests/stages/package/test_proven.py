"""Proven: which verdicts may be packaged."""

from __future__ import annotations

from typing import Any

import pytest

from attar.pipeline.core.errors import GateError
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.verdicts.gate_evaluation import evaluate_gates
from attar.proof.verdicts.limits import GateLimits
from attar.proof.verdicts.verdict import judge_target
from attar.proof.verdicts.verdict_json import verdict_to_json
from attar.stages.package.proven import refuse_unproven
from tests.support.proof.proof_parts import a_ledger, line


def judge(ledger: dict[str, Any], why_engine_not_run: str | None = None) -> dict[str, Any]:
    gates = evaluate_gates(ledger_from_json(ledger), GateLimits(score_drop=0.02, speedup=3))
    return verdict_to_json(judge_target(gates, why_engine_not_run))


def test_a_speedup_that_could_not_be_measured_is_refused_with_what_to_do() -> None:
    """The engine was run on a GPU, and the reference cannot be: then nothing is known of the speedup."""
    ledger = a_ledger()
    line(ledger, "engine")["device"] = "cuda"
    verdict = judge(ledger)
    assert verdict["verdict"] == "not run here"
    with pytest.raises(GateError, match=r"not packaged: .*speedup .*the reference on cpu: .* install onnxruntime-gpu"):
        refuse_unproven(verdict, engine_was_run=True)


def test_an_engine_that_was_not_run_waits_in_an_unfinished_bundle() -> None:
    ledger = a_ledger()
    line(ledger, "engine").update(status="not run here", why="no GPU")
    verdict = judge(ledger, "no GPU")
    assert verdict["verdict"] == "not run here"
    refuse_unproven(verdict, engine_was_run=False)
