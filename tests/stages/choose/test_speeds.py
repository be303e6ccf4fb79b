"""Groups of engines that are timed together, and what the reference took beside each."""

from __future__ import annotations

from pathlib import Path

from attar.stages.artifacts import Engine
from attar.stages.choose.speeds import ENGINES_AT_ONCE, group_engines, summarize_groups


def test_the_reference_has_a_median_and_its_spread_is_that_of_groups_with_its_threads() -> None:
    pinned = [{1: 100.0, 32: 900.0}, {1: 150.0, 32: 900.0}, {1: 110.0, 32: 1800.0}]
    free = [{1: 50.0, 32: 300.0}]
    assert summarize_groups([pinned, free]) == ({1: 110.0, 32: 900.0}, {1: 1.5, 32: 2.0})
    assert summarize_groups([]) == ({}, {})


def test_no_engine_of_one_thread_is_timed_beside_one_of_more() -> None:
    threads = {f"e{number}": 2 if number == 3 else 1 for number in range(ENGINES_AT_ONCE + 2)}
    engines = {name: Engine("", "", Path(), {"threads": count}) for name, count in threads.items()}
    groups = group_engines(engines, list(engines))
    assert [len(group) for group in groups] == [ENGINES_AT_ONCE, 1, 1]
    assert groups[-1] == ["e3"]
