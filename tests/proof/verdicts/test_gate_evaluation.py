"""Gates on ledgers made by hand: what passes, what fails, and which hop is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from attar.pipeline.core.errors import StageError
from attar.proof.hop import STUDENT_HOPS
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.verdicts.gate_evaluation import (
    evaluate_candidate_gates,
    evaluate_control_gates,
    evaluate_gates,
)
from attar.proof.verdicts.gate_text import explain_unmeasured
from attar.proof.verdicts.limits import GateLimits
from attar.proof.verdicts.verdict import judge_target
from attar.proof.verdicts.verdict_json import verdict_to_json
from tests.support.proof.proof_parts import WHY_OPAQUE, a_ledger, an_opaque_ledger, hop, line, metrics, speedup

GATES = GateLimits(score_drop=0.025, correlation=0.95, agreement=0.91, kdl=0.5, speedup=3, teacher_score=0.85)


def judged(ledger: dict[str, Any], gates: GateLimits = GATES) -> dict[str, Any]:
    return verdict_to_json(judge_target(evaluate_gates(ledger_from_json(ledger), gates)))


def test_everything_kept_passes_and_says_so() -> None:
    facts = judged(a_ledger())
    assert facts["verdict"] == "passed"
    assert facts["first_broken"] is None
    assert facts["margin"] is None
    assert facts["summary"].startswith(
        "Every promise is kept: teacher score 0.9 (0.9 to 0.9; at least 0.85), score drop 0 (0 to 0; at most 0.025), "
    )
    assert "speedup 5 (5 to 5; at least 3)" in facts["summary"]
    json.dumps(facts, allow_nan=False)


def test_what_was_not_promised_is_said() -> None:
    nothing = "Nothing was promised of the engine against the teacher; kept is "
    teacher = "; nothing was promised of the teacher itself"
    said = {
        GateLimits(): f"{nothing}what every conversion must keep{teacher}",
        GateLimits(speedup=3): f"{nothing}speedup 5 (5 to 5; at least 3){teacher}",
        GateLimits(teacher_score=0.85): f"{nothing}teacher score 0.9 (0.9 to 0.9; at least 0.85)",
        GateLimits(score_drop=0.01): f"Every promise is kept: score drop 0 (0 to 0; at most 0.01){teacher}",
    }
    assert {gates: judged(a_ledger(), gates)["summary"] for gates in said} == said


def test_a_score_lost_in_the_int8_graph_is_told_of_the_engine_and_blamed_on_the_model() -> None:
    ledger = a_ledger()
    for name in ("model", "engine"):
        line(ledger, name)["teacher"] = metrics(score_drop=0.031)
    facts = judged(ledger)
    assert (facts["verdict"], facts["first_broken"]) == ("failed", "model")
    assert facts["margin"] == pytest.approx(-0.006)
    assert facts["summary"] == "engine: score drop 0.031 (0.031 to 0.031), promised at most 0.025 (first broken hop: model)"


@pytest.mark.parametrize("first", STUDENT_HOPS)
def test_the_first_hop_that_breaks_is_named(first: str) -> None:
    ledger = a_ledger()
    for name in STUDENT_HOPS[STUDENT_HOPS.index(first) :]:
        line(ledger, name)["teacher"] = metrics(correlation=0.5)
    assert judged(ledger)["first_broken"] == first


def test_only_what_ships_decides() -> None:
    ledger = a_ledger()
    line(ledger, "student")["teacher"] = metrics(score_drop=0.026)
    facts = judged(ledger)
    assert facts["verdict"] == "passed"
    (row,) = (row for row in facts["gates"] if row["verdict"] == "failed")
    assert (row["hop"], row["decides"]) == ("student", False)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("reference", {"correlation": 0.9}),
        ("onnx", {"largest_difference": 0.01}),
        ("reference", {"correlation": 0.998}),
        ("model", {"correlation": 0.97}),
        ("model", {"kdl": 0.06}),
        ("engine", {"score_drop": 0.03}),
        ("engine", {"correlation": 0.985}),
    ],
)
def test_each_conversion_is_held_to_the_hop_before_it(name: str, changed: dict[str, float]) -> None:
    ledger = a_ledger()
    line(ledger, name)["previous"] |= metrics(**changed)
    facts = judged(ledger, GateLimits())
    assert (facts["verdict"], facts["first_broken"]) == ("failed", name)
    assert f"against {line(ledger, name)['previous']['hop']}" in facts["summary"]


@pytest.mark.parametrize(("what", "told"), [({"nonfinite": 3}, "3"), ({"constant": True}, "100")])
def test_a_hop_without_usable_answers_fails_whatever_its_columns_say(what: dict[str, Any], told: str) -> None:
    ledger = a_ledger()
    line(ledger, "model").update(what)
    facts = judged(ledger)
    assert facts["first_broken"] == "model"
    assert f"model: samples without a usable answer {told}" in facts["summary"]


def test_a_broken_teacher_cannot_pass() -> None:
    ledger = a_ledger()
    line(ledger, "teacher").update(score=0.1, score_bounds=[0.05, 0.15])
    facts = judged(ledger)
    assert (facts["first_broken"], facts["margin"]) == ("teacher", pytest.approx(-0.75))


def test_an_engine_slower_than_promised_fails() -> None:
    ledger = a_ledger() | {"speedup": speedup(reference=0.5, teacher=9)}
    assert judged(ledger)["first_broken"] == "engine"
    assert "speedup 0.5 (0.5 to 0.5), promised at least 3" in judged(ledger)["summary"]


def test_what_was_not_run_here_never_passes() -> None:
    ledger = a_ledger()
    ledger["hops"][-1] = {"hop": "engine", "status": "not run here", "why": "no GPU"}
    facts = judged(ledger)
    assert facts["verdict"] == "not run here"
    assert {row["verdict"] for row in facts["gates"] if row["hop"] == "engine"} == {"not run here"}
    assert all(row["decides"] for row in facts["gates"] if row["hop"] in ("model", "engine"))
    line(ledger, "model")["previous"] |= metrics(correlation=0.1)
    assert judged(ledger)["verdict"] == "failed"  # what did run and broke is worse


def test_the_graph_stands_for_an_engine_that_was_not_run() -> None:
    ledger = a_ledger()
    line(ledger, "model")["teacher"] = metrics(score_drop=0.5)
    assert judged(ledger)["verdict"] == "passed"  # the engine keeps the promise, however it does that
    ledger["hops"][-1] = {"hop": "engine", "status": "not run here", "why": "no GPU"}
    facts = judged(ledger)
    assert (facts["verdict"], facts["first_broken"]) == ("failed", "model")


def test_a_promise_that_the_outputs_cannot_show_is_an_error() -> None:
    ledger = a_ledger()
    for each in ledger["hops"]:
        each["teacher"] = metrics(agreement=None, kdl=None)
    with pytest.raises(StageError, match="'agreement'"):
        evaluate_gates(ledger_from_json(ledger), GATES)


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_at_the_limit_is_inside(limit: float, measured: float) -> None:
    assume(abs(abs(measured - limit) - 1e-12) > 1e-15)  # there the order of two roundings decides
    ledger = a_ledger()
    line(ledger, "engine")["teacher"] = metrics(score_drop=measured, correlation=measured)
    rows = evaluate_gates(ledger_from_json(ledger), GateLimits(score_drop=limit, correlation=limit))
    drop, correlation = (r for r in rows if (r.comparison.hop, r.comparison.baseline) == ("engine", "teacher"))
    assert drop.verdict == ("passed" if measured <= limit + 1e-12 else "failed")
    assert correlation.verdict == ("passed" if measured >= limit - 1e-12 else "failed")


def test_rounding_does_not_break_a_promise() -> None:
    ledger = a_ledger()
    line(ledger, "engine")["teacher"] = metrics(score_drop=0.9 - 0.875)
    assert judged(ledger, GateLimits(score_drop=0.025))["verdict"] == "passed"


WRONG: list[dict[str, Any]] = [
    *({"scores": 1}, {"hops": {"agreement": 1}}, {"regression": {"latency": 1}}),
    *({"correlation": limit} for limit in (-1.1, 1.1)),
    *({"agreement": limit} for limit in (-0.1, 1.1)),
    *({"speedup": limit} for limit in (0, -1)),
    *({"kdl": -0.1}, {"hops": {"largest_difference": -1e-3}}, {"hops": {"correlation": 95}}),
    *({gate: limit} for gate in ("score_drop", "teacher_score", "kdl", "speedup") for limit in (math.nan, math.inf)),
    {"hops": {"score_drop": math.nan}},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_promise_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GateLimits.model_validate(wrong)


def test_scores_may_be_of_any_size() -> None:
    """BLEU goes to 100, and a student may be asked to gain."""
    assert GateLimits(score_drop=-1.5, teacher_score=27.3).hops.score_drop == 0.02


def test_bounds_that_cross_the_limit_leave_the_verdict_open_and_say_what_would_decide() -> None:
    ledger = a_ledger()
    line(ledger, "engine")["teacher"] = metrics(within=0.03, score_drop=0.015)
    facts = judged(ledger, GateLimits(score_drop=0.025))
    assert (facts["verdict"], facts["first_broken"]) == ("undecided", None)
    assert facts["summary"] == (
        "undecided: engine: score drop 0.015 (-0.015 to 0.045), promised at most 0.025; about 900 samples would decide"
    )


def test_at_the_limit_no_number_decides() -> None:
    ledger = a_ledger()
    line(ledger, "engine")["teacher"] = metrics(within=0.03, score_drop=0.025)
    assert judged(ledger, GateLimits(score_drop=0.025))["summary"].endswith("; at the limit: no number decides")


def test_an_undecided_hop_before_a_broken_engine_is_not_blamed() -> None:
    ledger = a_ledger()
    line(ledger, "student")["teacher"] = metrics(within=0.01, score_drop=0.02)
    line(ledger, "engine")["teacher"] = metrics(within=0.01, score_drop=0.05)
    facts = judged(ledger, GateLimits(score_drop=0.025))
    assert (facts["verdict"], facts["first_broken"]) == ("failed", "engine")


def test_a_conversion_is_not_blamed_for_the_one_behind_it() -> None:
    """Each conversion has a limit of its own: an undecided one of the model is not the engine's."""
    ledger = a_ledger()
    line(ledger, "model")["previous"] |= metrics(within=0.01, correlation=0.979)
    line(ledger, "engine")["previous"] |= metrics(correlation=0.5)
    facts = judged(ledger)
    assert (facts["verdict"], facts["first_broken"]) == ("failed", "engine")
    assert facts["summary"].startswith("engine: correlation against model 0.5")


def test_an_unsound_bundle_in_production_is_not_blamed_for_an_unsound_engine() -> None:
    ledger = in_production(0.0, 1.0)
    for name in ("production", "engine"):
        line(ledger, name).update(nonfinite=3)
    assert judged(ledger)["first_broken"] == "engine"


def test_a_size_at_which_a_hop_does_not_answer_is_named_with_its_fault() -> None:
    ledger = a_ledger()
    for name in ("onnx", "model", "engine"):
        line(ledger, name)["sizes"] = {"tried": 3, "faults": ["at batch 1: 'logits' has shape [2, 10], expected [1, 10]"]}
    facts = judged(ledger)
    assert (facts["verdict"], facts["first_broken"]) == ("failed", "onnx")
    assert "at batch 1: 'logits' has shape [2, 10], expected [1, 10]" in facts["summary"]


def test_a_hop_whose_sizes_were_not_tried_is_refused() -> None:
    ledger = a_ledger()
    line(ledger, "engine")["sizes"] = None
    with pytest.raises(StageError, match="sizes of the engine; measure again"):
        judged(ledger)


def test_a_floor_under_the_engine_names_the_first_hop_below_it() -> None:
    ledger = a_ledger()
    for name in ("model", "engine"):
        line(ledger, name).update(score=0.8, score_bounds=[0.78, 0.82])
    facts = judged(ledger, GateLimits(score=0.85))
    assert (facts["verdict"], facts["first_broken"]) == ("failed", "model")
    assert "model: score 0.8" in facts["summary"] or "engine: score 0.8" in facts["summary"]
    assert judged(ledger, GateLimits(score=0.78))["verdict"] == "passed"


def in_production(drop: float, latency: float, within: float = 0.0) -> dict[str, Any]:
    """A ledger with a bundle in production: what the engine lost against it, and its latency over the engine's."""
    ledger = a_ledger() | {"speedup": speedup(within, reference=5, teacher=9, production=latency)}
    ledger["hops"].insert(-1, hop("production", None))
    line(ledger, "engine")["production"] = {"hop": "production", **metrics(within, score_drop=drop)}
    return ledger


def test_a_regression_against_production_fails() -> None:
    for ledger in (in_production(0.02, 1.0), in_production(0.0, 0.5)):
        facts = judged(ledger, GateLimits(score_drop=0.5))
        assert (facts["verdict"], facts["first_broken"]) == ("failed", "engine")
        assert "against production" in facts["summary"] or "speedup" in facts["summary"]
    assert judged(in_production(0.005, 0.9), GateLimits(score_drop=0.5))["verdict"] == "passed"
    assert judged(in_production(0.005, 0.9, within=0.05), GateLimits(score_drop=0.5))["verdict"] == "undecided"


def test_what_is_not_promised_against_production_is_not_judged() -> None:
    lenient = GateLimits.model_validate({"regression": {"score_drop": 0.05, "speedup": 0.4, "agreement": 0.9}})
    rows = [
        row
        for row in evaluate_gates(ledger_from_json(in_production(0.02, 0.5)), lenient)
        if row.comparison.baseline == "production"
    ]
    assert {row.comparison.metric: row.verdict for row in rows} == dict.fromkeys(("score_drop", "agreement", "speedup"), "passed")


def test_a_candidate_and_the_control_have_the_limit_of_endless_sequences() -> None:
    ledger = ledger_from_json(a_ledger())
    limits = GateLimits(endless=0.002)
    for share, verdict in ((0.001, "passed"), (0.1, "failed")):
        control = replace(ledger.hops["student"], name="control", endless_share=share)
        held = replace(ledger, hops={**ledger.hops, "control": control})
        gates = {
            "control": evaluate_control_gates(held, limits),
            "model": evaluate_candidate_gates(held, replace(ledger.hops["model"], endless_share=share), limits),
        }
        for name, found in gates.items():
            (gate,) = [gate for gate in found if gate.comparison.metric == "endless"]
            assert (gate.comparison.hop, gate.comparison.value, gate.verdict) == (name, share, verdict)
    with pytest.raises(StageError, match="endless"):
        evaluate_candidate_gates(ledger, ledger.hops["model"], limits)


def test_a_teacher_that_only_translates_has_no_gates_of_what_was_not_measured() -> None:
    facts = judged(an_opaque_ledger(), GateLimits(score_drop=0.025, agreement=0.91))
    assert facts["verdict"] == "passed"
    assert {gate["hop"] for gate in facts["gates"]} == {"teacher", *STUDENT_HOPS}
    assert explain_unmeasured(ledger_from_json(an_opaque_ledger())).endswith(f"were not measured: {WHY_OPAQUE}")
    assert explain_unmeasured(ledger_from_json(a_ledger())) == ""


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (GateLimits(correlation=0.9), "the gate 'correlation' is about the teacher's probabilities"),
        (GateLimits(kdl=0.9), "the gate 'kdl'"),
        (GateLimits(speedup=2), "compares with the reference, the teacher's graph, and there is none"),
    ],
)
def test_what_was_not_measured_cannot_be_promised(limits: GateLimits, message: str) -> None:
    with pytest.raises(StageError, match=f"{message}.*{WHY_OPAQUE}; remove it from"):
        judged(an_opaque_ledger(), limits)
