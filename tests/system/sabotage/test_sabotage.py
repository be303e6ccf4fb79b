"""Every fault ends the run with its exit code and the name of its place; one that is known to get through still does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.system.sabotage.case import Case
from tests.system.sabotage.cases import kinds, sequences
from tests.system.sabotage.lab import KINDS, RECIPE, SENTENCES, Lab, outcome
from tests.system.sabotage.registry import CASES

OTHER_RECIPES = (kinds.LABELS, kinds.PIXELS, sequences.SEQUENCES, sequences.TOKEN_BUNDLES)
"""Their recipes take as long as all that `make test` injects into the first."""


def number_cases() -> Iterator[Any]:
    """One of each group into the first recipe is fast; the gates that catch the rest have tests of their own."""
    for group, cases in CASES.items():
        for place, case in enumerate(cases):
            is_slow = place > 0 or cases in OTHER_RECIPES
            yield pytest.param(case, id=f"{group}: {case.fault}", marks=[pytest.mark.slow] * is_slow)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(RECIPE, id="project"),
        pytest.param(SENTENCES, id="sentences", marks=pytest.mark.slow),
        pytest.param(KINDS, id="kinds", marks=pytest.mark.slow),
    ],
)
def test_without_a_fault_every_promise_is_kept(lab: Lab, recipe: Path) -> None:
    found = outcome(list(replace(lab, recipe=recipe).workspace().run.walk()))
    assert (found.code, found.where) == (0, ""), found.evidence
    assert found.evidence.startswith("Every promise is kept")


@pytest.mark.parametrize("case", [*number_cases()])
def test_the_fault_is_found_and_named(lab: Lab, case: Case) -> None:
    found = case.inject(lab)
    assert case.came_true(found), f"expected {(case.code, case.where, case.says)}, found {found}"
