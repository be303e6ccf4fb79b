"""Sensitivity: bisection against looking at every name, and a graph of which one node is spoilt on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from attar.engines.graphs.int8 import QuantizationSpec
from attar.stages.optimize.sensitivity import find_costliest, measure_sensitivity
from tests.support.engines.graph_texts import write_identity_chain
from tests.support.tasks import smoke

NAMES = [f"n{number}" for number in range(16)]


def test_one_bad_name_of_sixteen_takes_nine_questions() -> None:
    """All, and then two halves four times; the other halves cost nothing and are not asked further until it is found."""
    asked: list[Sequence[str]] = []

    def cost(group: Sequence[str]) -> float:
        asked.append(group)
        return 0.25 if "n5" in group else 0.0

    assert find_costliest(NAMES, cost, 100, 1) == {"n5": 0.25}
    assert [len(group) for group in asked] == [16, 8, 8, 4, 4, 2, 2, 1, 1]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=16), st.integers(1, 20))
def test_where_a_group_costs_as_much_as_its_worst(costs: list[int], count: int) -> None:
    """The costliest come out, in order, as if each had been looked at."""
    names = NAMES[: len(costs)]
    of = dict(zip(names, costs, strict=True))
    found = find_costliest(names, lambda group: max(of[name] for name in group), 1000, count)
    assert list(found.values()) == sorted(costs, reverse=True)[:count]
    assert all(found[name] == of[name] for name in found)


def test_the_worst_comes_first_however_groups_mislead() -> None:
    """Two errors may cancel: ``b`` and ``a`` cost less together than alone, and are found last."""
    costs = {"ab": 0.2, "cd": 0.3, "a": 0.5, "b": 0.1, "c": 0.3, "d": 0.0, "abcd": 0.6}
    found = find_costliest("abcd", lambda group: costs["".join(group)], 100, 3)
    assert list(found.items()) == [("a", 0.5), ("c", 0.3), ("b", 0.1)]


@given(st.integers(1, 40))
def test_no_more_questions_than_allowed(evaluations: int) -> None:
    asked: list[Sequence[str]] = []

    def cost(group: Sequence[str]) -> float:
        asked.append(group)
        return float(len(group))

    find_costliest(NAMES, cost, evaluations, 16)
    assert len(asked) <= evaluations
    assert find_costliest([], cost, evaluations, 16) == {}


def test_the_node_with_a_bad_range_is_the_costliest(tmp_path: Path) -> None:
    """All values are 0 to 99.5; for ``x``, which the first product alone reads, a calibration says 0 to 20,000."""
    ranges = dict.fromkeys("abcdy", (0.0, 99.5)) | {"x": (0.0, 20000.0)}
    found = measure_sensitivity(write_identity_chain(tmp_path), ranges, QuantizationSpec(), smoke.ThreeNumbers())
    assert next(iter(found)) == "MatMul_0"
    assert found["MatMul_0"] > 0.1
    assert all(cost < 1e-4 for name, cost in found.items() if name != "MatMul_0")
    assert len(found) == 4
