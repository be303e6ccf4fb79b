"""The stored verdict of a teacher that only translates: it has no reference, and no other may lack the gates of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.bundle.stored_verdict import StoredVerdict, check_verdict
from attar.pipeline.core.errors import InvalidBundleError
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.verdicts.gate_evaluation import evaluate_gates
from attar.proof.verdicts.limits import GateLimits
from attar.proof.verdicts.verdict import judge_target
from attar.proof.verdicts.verdict_json import verdict_to_json
from tests.support.proof.proof_parts import an_opaque_ledger


def test_gates_of_the_reference_may_be_missing_where_there_is_none() -> None:
    ledger = an_opaque_ledger()
    gates = evaluate_gates(ledger_from_json(ledger), GateLimits(score_drop=0.02))
    stored = StoredVerdict.model_validate(verdict_to_json(judge_target(gates)))
    check_verdict(Path("bundle"), stored, ledger, finished=False)
    del ledger["opaque"]
    with pytest.raises(InvalidBundleError, match="no gate 'sound' is there for the reference"):
        check_verdict(Path("bundle"), stored, ledger, finished=False)
