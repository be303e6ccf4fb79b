"""Which trainings are stopped, and for which other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attar.search.stopping import Rival, StoppingRule, create_rule, suggest_rungs

INT8 = '{"targets.cpu.precision": "int8"}'
RIVAL = Rival(6, {2: 0.90, 4: 0.95, 6: 0.96}, 0.02, (True, 2.0), INT8, wins_by_score=True, breaks_score=False)
PRIOR = (True, 1.0)
BROKEN = replace(RIVAL, wins_by_score=False, breaks_score=True)


def test_rungs_are_a_third_and_two_thirds_of_a_training() -> None:
    assert suggest_rungs(6) == [2, 4]
    assert suggest_rungs(5) == [2, 4]


@pytest.mark.parametrize(
    ("rival", "prior", "conversion", "score", "stops"),
    [
        (RIVAL, 1.0, INT8, 0.87, True),  # it keeps all promises, is no worse, and ahead by more than its score is uncertain
        (RIVAL, 1.0, INT8, 0.89, False),  # ahead by less
        (RIVAL, 3.0, INT8, 0.10, False),  # this one is faster, so it may keep all promises and win
        (BROKEN, 3.0, INT8, 0.87, True),  # a better student broke a promise about the score
        (BROKEN, 1.0, '{"targets.cpu.precision": "fp32"}', 0.10, False),  # which int8 may have lost alone
        (replace(RIVAL, wins_by_score=False), 1.0, INT8, 0.10, False),  # it broke another promise, or no score is sought
        (replace(RIVAL, prior=(False, 2.0)), 1.0, INT8, 0.10, False),  # this one is as fast as promised, and it may not be
    ],
)
def test_a_training_stops_behind_one_that_it_cannot_beat(
    rival: Rival, prior: float, conversion: str, score: float, stops: bool
) -> None:
    assert create_rule(6, (True, prior), conversion, [rival]).stops(2, score) is stops


def test_a_rung_is_the_same_share_of_each_training() -> None:
    rule = create_rule(30, PRIOR, INT8, [RIVAL])
    assert rule.least == pytest.approx({10: 0.88, 20: 0.93})
    assert not rule.stops(2, 0.0)


def test_the_end_of_a_training_is_no_rung() -> None:
    """Stopped there, it would have cost all its epochs and be measured nowhere."""
    assert suggest_rungs(2) == [1, None]
    assert suggest_rungs(1) == [None, None]
    short = replace(RIVAL, epochs=2, scores={1: 0.90, 2: 0.96})
    assert create_rule(2, PRIOR, INT8, [RIVAL]).least == pytest.approx({1: 0.88})
    assert create_rule(1, PRIOR, INT8, [RIVAL]) == StoppingRule()
    assert create_rule(6, PRIOR, INT8, [short]).least == pytest.approx({2: 0.88})


def test_the_best_rival_at_each_rung_counts_as_far_as_it_came() -> None:
    short = replace(RIVAL, scores={2: 0.99})
    assert create_rule(6, PRIOR, INT8, [RIVAL, short]).least == pytest.approx({2: 0.97, 4: 0.93})


def test_nothing_stops_without_a_rival() -> None:
    assert create_rule(6, PRIOR, INT8, []) == StoppingRule({})
    assert not StoppingRule().stops(2, 0.0)
