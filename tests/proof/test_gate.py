"""One gate: what follows from a number, its bounds and a limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.gate import Baseline, Comparison, Gate, GateVerdict, Metric
from attar.proof.verdicts.gate_text import format_gate, format_kept_gate, format_missing_evidence

NUMBERS = st.floats(-1, 1)


def drop(measured: float, low: float, high: float, limit: float = 0.02, samples: int = 100) -> Gate:
    bounds = ConfidenceBounds(low, high)
    return Gate(Comparison("score_drop", "engine", "teacher", measured, bounds, samples), limit, required=True)


@pytest.mark.parametrize(
    ("low", "measured", "high", "verdict"),
    [
        (0.00, 0.01, 0.02, "passed"),  # the upper bound is at the limit: inside
        (0.00, 0.01, 0.03, "undecided"),  # it may be more than is promised
        (0.01, 0.03, 0.05, "undecided"),  # it may be less than is promised
        (0.02, 0.03, 0.05, "undecided"),  # the lower bound is at the limit: not outside
        (0.021, 0.03, 0.05, "failed"),
    ],
)
def test_what_may_not_rise_is_held_to_its_upper_bound(low: float, measured: float, high: float, verdict: GateVerdict) -> None:
    assert drop(measured, low, high).verdict == verdict
    mirrored = Comparison("correlation", "engine", "teacher", -measured, ConfidenceBounds(-high, -low), 100)
    assert Gate(mirrored, -0.02, required=True).verdict == verdict


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_more_certainty_never_turns_a_verdict_round(measured: float, below: float, above: float, limit: float) -> None:
    low, high = measured - abs(below), measured + abs(above)
    wide, narrow = (drop(measured, *bounds, limit).verdict for bounds in ((low, high), (measured, measured)))
    assert narrow in ("passed", "failed")
    assert wide in (narrow, "undecided")


def test_what_would_decide_by_hand() -> None:
    # inside by 0.01 while the bound is 0.03 beyond: half-widths shrink as 1 / sqrt(n), so 3 * 3 times as many samples
    assert format_missing_evidence(drop(0.01, -0.02, 0.04)) == "about 900 samples"
    # outside by 0.01 while the better bound is 0.02 inside of it: 2 * 2 times as many
    assert format_missing_evidence(drop(0.03, 0.01, 0.06)) == "about 400 samples"
    assert format_missing_evidence(drop(0.02, 0.01, 0.03)) == "at the limit: no number decides"
    assert format_missing_evidence(drop(0.01, 0.00, 0.02)) is None
    speedup = Comparison("speedup", "engine", "reference", 3.5, ConfidenceBounds(2.5, 4.5), 200)
    assert format_missing_evidence(Gate(speedup, 3, required=True)) == "about 800 rounds"


@given(NUMBERS, st.floats(0.002, 1), st.booleans(), st.floats(1.01, 9), st.floats(0, 1), st.integers(2, 10_000))
def test_so_many_samples_do_decide(measured: float, apart: float, inside: bool, times: float, other: float, samples: int) -> None:
    """The bound on the limit's side is ``times`` as far away as the limit, so the gate is undecided."""
    limit = measured + apart if inside else measured - apart
    below, above = (other, times * apart) if inside else (times * apart, other)
    needed = drop(measured, measured - below, measured + above, limit, samples).deciding_sample_size
    assert needed is not None
    factor = (samples / needed) ** 0.5
    narrower = drop(measured, measured - below * factor, measured + above * factor, limit)
    assert factor <= 1
    margins = [round(narrower.margin_of(bound), 6) for bound in narrower.comparison.bounds or ()]
    assert narrower.verdict in ("passed", "failed") or 0 in margins


@pytest.mark.parametrize(("metric", "measured", "verdict"), [("sound", 0, "passed"), ("sizes", 1, "failed")])
def test_counts_are_exact(metric: Metric, measured: float, verdict: GateVerdict) -> None:
    note = "at batch 1: wrong" if measured else None
    gate = Gate(Comparison(metric, "model", "absolute", measured), 0, required=True, note=note)
    assert (gate.verdict, format_missing_evidence(gate)) == (verdict, None)
    assert ("(at batch 1: wrong)" in format_gate(gate)) == bool(measured)


def test_what_did_not_run_has_no_verdict_of_its_own() -> None:
    gate = Gate(Comparison("kdl", "engine", "teacher", None), 0.1, required=True)
    assert (gate.verdict, gate.margin, format_missing_evidence(gate)) == ("not run here", None, None)
    assert format_gate(gate) == "engine: kdl not run here, promised at most 0.1"


def test_a_sentence_names_the_other_hop_and_the_bounds() -> None:
    comparison = Comparison("correlation", "engine", "previous", 0.9431, ConfidenceBounds(0.94, 0.946), 300)
    gate = Gate(comparison, 0.98, required=True)
    assert format_gate(gate) == "engine: correlation against model 0.9431 (0.94 to 0.946), promised at least 0.98"
    assert format_kept_gate(drop(0.01, 0.005, 0.02)) == "score drop 0.01 (0.005 to 0.02; at most 0.02)"


@pytest.mark.parametrize(
    ("metric", "baseline", "bounds"),
    [
        ("correlation", "teacher", None),  # an estimate without bounds
        ("correlation", "teacher", ConfidenceBounds(0.96, 0.97)),  # bounds without the value
        ("correlation", "teacher", ConfidenceBounds(float("nan"), 1.0)),
        ("largest_difference", "teacher", ConfidenceBounds(0.9, 1.0)),  # a maximum with bounds
        ("correlation", "previous", ConfidenceBounds(0.9, 1.0)),  # the student was made from no hop
    ],
)
def test_a_comparison_that_proves_nothing_cannot_be(metric: Metric, baseline: Baseline, bounds: ConfidenceBounds | None) -> None:
    with pytest.raises(ValueError, match="student"):
        Comparison(metric, "student", baseline, 0.95, bounds, None if bounds is None else 100)
