"""Every fault ends the run with its exit code and the name of its place; one that is known to get through still does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.system.sabotage.case import Case
from tests.system.sabotage.lab import KINDS, RECIPE, SENTENCES, Lab, outcome
from tests.system.sabotage.registry import CASES

NUMBERED = [pytest.param(case, id=f"{group}: {case.fault}") for group, cases in CASES.items() for case in cases]


@pytest.mark.parametrize("recipe", [RECIPE, SENTENCES, KINDS], ids=["project", "sentences", "kinds"])
def test_without_a_fault_every_promise_is_kept(lab: Lab, recipe: Path) -> None:
    found = outcome(list(replace(lab, recipe=recipe).workspace().run.walk()))
    assert (found.code, found.where) == (0, ""), found.evidence
    assert found.evidence.startswith("Every promise is kept")


@pytest.mark.parametrize("case", NUMBERED)
def test_the_fault_is_found_and_named(lab: Lab, case: Case) -> None:
    found = case.inject(lab)
    assert case.came_true(found), f"expected {(case.code, case.where, case.says)}, found {found}"
