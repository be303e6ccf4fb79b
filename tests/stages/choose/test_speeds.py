"""What the reference took beside each group of engines."""

from __future__ import annotations

from attar.stages.choose.speeds import summarize_groups


def test_the_reference_has_the_median_of_its_groups_and_their_spread() -> None:
    groups = [{1: 100.0, 32: 900.0}, {1: 150.0, 32: 900.0}, {1: 110.0, 32: 1800.0}]
    assert summarize_groups(groups) == ({1: 110.0, 32: 900.0}, {1: 1.5, 32: 2.0})
    assert summarize_groups([]) == ({}, {})
