"""One gate: what follows from a number, its bounds and a limit."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attar.proof.outcome import Decision, Name, Outcome

NUMBERS = st.floats(-1, 1)


def drop(measured: float, low: float, high: float, limit: float = 0.02, samples: int = 100) -> Outcome:
    return Outcome("score_drop", "engine", "teacher", limit, measured, True, (low, high), samples)


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
def test_what_may_not_rise_is_held_to_its_upper_bound(low: float, measured: float, high: float, verdict: Decision) -> None:
    assert drop(measured, low, high).verdict == verdict
    mirrored = Outcome("correlation", "engine", "teacher", -0.02, -measured, True, (-high, -low), 100)
    assert mirrored.verdict == verdict


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_more_certainty_never_turns_a_verdict_round(measured: float, below: float, above: float, limit: float) -> None:
    low, high = measured - abs(below), measured + abs(above)
    wide, narrow = (drop(measured, *bounds, limit).verdict for bounds in ((low, high), (measured, measured)))
    assert narrow in ("passed", "failed")
    assert wide in (narrow, "undecided")


def test_what_would_decide_by_hand() -> None:
    # inside by 0.01 while the bound is 0.03 beyond: half-widths shrink as 1 / sqrt(n), so 3 * 3 times as many samples
    assert drop(0.01, -0.02, 0.04).would_decide == "about 900 samples"
    # outside by 0.01 while the better bound is 0.02 inside of it: 2 * 2 times as many
    assert drop(0.03, 0.01, 0.06).would_decide == "about 400 samples"
    assert drop(0.02, 0.01, 0.03).would_decide == "at the limit: no number decides"
    assert drop(0.01, 0.00, 0.02).would_decide is None
    speedup = Outcome("speedup", "engine", "reference", 3, 3.5, True, (2.5, 4.5), 200)
    assert speedup.would_decide == "about 800 rounds"


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.integers(2, 10_000))
def test_so_many_samples_do_decide(measured: float, below: float, above: float, limit: float, samples: int) -> None:
    outcome = drop(measured, measured - abs(below), measured + abs(above), limit, samples)
    told = outcome.would_decide or ""
    assume(abs(measured - limit) > 1e-3 and told.startswith("about"))
    factor = (samples / int(told.split()[1].replace(",", ""))) ** 0.5
    narrower = drop(measured, measured - abs(below) * factor, measured + abs(above) * factor, limit)
    assert factor <= 1
    assert narrower.verdict in ("passed", "failed") or 0 in (round(narrower.inside(bound), 6) for bound in narrower.interval)


@pytest.mark.parametrize(("gate", "measured", "verdict"), [("sound", 0, "passed"), ("sizes", 1, "failed")])
def test_counts_are_exact(gate: Name, measured: float, verdict: Decision) -> None:
    found = Outcome(gate, "model", "absolute", 0, measured, True, note="at batch 1: wrong" if measured else None)
    assert (found.verdict, found.would_decide) == (verdict, None)
    assert ("(at batch 1: wrong)" in found.sentence) == bool(measured)


def test_what_did_not_run_has_no_verdict_of_its_own() -> None:
    found = Outcome("kdl", "engine", "teacher", 0.1, None, True)
    assert (found.verdict, found.margin, found.would_decide) == ("not run here", None, None)
    assert found.sentence == "engine: kdl not run here, promised at most 0.1"


def test_a_sentence_names_the_other_hop_and_the_bounds() -> None:
    found = Outcome("correlation", "engine", "previous", 0.98, 0.9431, True, (0.94, 0.946), 300)
    assert found.sentence == "engine: correlation against model 0.9431 (0.94 to 0.946), promised at least 0.98"
    assert drop(0.01, 0.005, 0.02).kept == "score drop 0.01 (0.005 to 0.02; at most 0.02)"
