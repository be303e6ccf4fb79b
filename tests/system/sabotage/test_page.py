"""The page in the documentation is the one of this registry."""

from __future__ import annotations

from collections import Counter

from attar.stages.measure.bench import Bench
from tests.system.sabotage.lab import REMEMBERED
from tests.system.sabotage.page import PAGE, expected, rows
from tests.system.sabotage.registry import CASES


def test_the_page_names_every_fault_with_its_place_and_its_outcome() -> None:
    assert rows(PAGE.read_text(encoding="utf-8")) == expected(CASES), "run `python -m tests.system.sabotage`, which writes it"


def test_no_fault_is_listed_twice() -> None:
    twice = [name for name, count in Counter(row[:2] for row in expected(CASES)).items() if count > 1]
    assert twice == []


def test_what_is_missed_has_a_reason_and_what_is_caught_has_a_place() -> None:
    for cases in CASES.values():
        for case in cases:
            assert (case.code, case.where) == (0, "") if case.missed else case.code in (1, 3, 4) and case.where, case.fault


def test_a_stage_that_breaks_has_to_say_why() -> None:
    """Anything may break a stage; only the fault that was put in counts."""
    silent = [case.fault for cases in CASES.values() for case in cases if case.code == 1 and not case.says]
    assert silent == []


def test_no_lab_is_left_behind() -> None:
    """This file has none; ``test_sabotage``, which runs before it, has."""
    assert [getattr(Bench, name).__qualname__ for name in REMEMBERED] == [f"Bench.{name}" for name in REMEMBERED]
