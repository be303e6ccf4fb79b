"""Which variants are trained, and which trainings are stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.recipe.search_space import SearchSpace
from attar.pipeline.run import Record
from attar.pipeline.store.store import Store
from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.ledger.speeds import EngineSpeed
from attar.search.notes import describe_ties
from attar.search.result import VariantResult
from attar.search.speeds import Show, Timing, VariantSpeeds
from attar.search.study import VariantStudy, encode, is_ordered, list_distributions
from attar.search.trial import CandidateOutcome, TrialEnd, TrialOutcome, TrialPlan
from attar.search.variant import RecipeSearch, Variant
from attar.stages.choose.speeds import ENGINES_AT_ONCE

SPACE = SearchSpace(dimensions={"student.options.width": (6, 8, 12), "targets.cpu.precision": ("fp32", "int8")})


def test_numbers_in_order_are_an_order_to_the_sampler_and_words_are_not() -> None:
    kinds = {name: type(kind).__name__ for name, kind in list_distributions(SPACE).items()}
    assert kinds == {"student.options.width": "IntDistribution", "targets.cpu.precision": "CategoricalDistribution"}
    assert not is_ordered([8, 6])


def test_a_variant_is_the_places_of_its_values() -> None:
    variant = Variant(1, {"targets.cpu.precision": "int8", "student.options.width": 8})
    assert encode(SPACE, variant) == (("student.options.width", 1), ("targets.cpu.precision", 1))


def test_variants_of_one_student_and_several_targets_share_its_training() -> None:
    fp32, int8 = (Variant(1, {"student.options.width": 8, "targets.cpu.precision": kind}) for kind in ("fp32", "int8"))
    wide = Variant(2, {"student.options.width": 12, "targets.cpu.precision": "int8"})
    assert fp32.student == int8.student != wide.student
    assert int8.conversion == wide.conversion != fp32.conversion
    assert wide.title == "width 12, precision int8"
    assert wide.overrides == ["student.options.width=12", 'targets.cpu.precision="int8"']


def test_a_value_that_is_a_table_is_written_on_one_line() -> None:
    variant = Variant(1, {"student.layers": {"body": [0, 2]}, "student.losses": [{"kind": "kd"}]})
    assert variant.overrides == ["student.layers={body = [0, 2]}", 'student.losses=[{kind = "kd"}]']


@dataclass
class Machine:
    """In the place of a machine: what trainings and timings say is prescribed."""

    together: Mapping[int, float]
    """Speedups of a second timing, by width."""
    trained: list[int] = field(default_factory=list)
    compared: list[list[int]] = field(default_factory=list)

    def time_variants(self, search: RecipeSearch, show: Show) -> Timing:
        raise NotImplementedError

    def time_together(self, search: RecipeSearch, names: Sequence[str], show: Show) -> Timing:
        chosen = [each for each in search.variants if each.name in names]
        self.compared.append(sorted(map(get_width, chosen)))
        return Timing([make_speeds(each, self.together[get_width(each)], 0.1) for each in chosen], 100.0)

    def run_trials(self, search: RecipeSearch, plans: Sequence[TrialPlan], show: Show) -> list[TrialEnd]:
        self.trained += [get_width(plan.variant) for plan in plans]
        candidate = CandidateOutcome("c0", "onnxruntime fp32", 0.9, 0.99, 0.95, 1000, (), 0.0, breaks_answers=False)
        return [TrialOutcome({1: 0.9}, [candidate], 0.9) for _ in plans]

    def run_winner(self, search: RecipeSearch, file: Path, show: Show) -> list[Record]:
        raise NotImplementedError


def get_width(variant: Variant) -> int:
    return int(variant.settings["student.options.width"])


def make_speeds(variant: Variant, speedup: float, doubt: float) -> VariantSpeeds:
    engine = EngineSpeed(None, {1: 100 / speedup}, 1000, speedup, ConfidenceBounds(speedup - doubt, speedup + doubt))
    return VariantSpeeds(variant, {"c0": engine}, 1)


@dataclass
class Study:
    """A search among widths, which has ended. The recipe's own width is 12, it promises a speedup of 3."""

    machine: Machine
    rows: dict[int, VariantResult]
    winner: int | None
    told: list[str]


def run_study(first: Mapping[int, float], together: Mapping[int, float], doubt: float = 0.5, **settings: Any) -> Study:
    space = SearchSpace(dimensions={"student.options.width": tuple(first)}, **settings)
    search = RecipeSearch("demo", Store(Path("store")), space, "cpu")
    timed = [make_speeds(each, first[get_width(each)], doubt) for each in search.variants]
    machine, study = Machine(together), VariantStudy(search, timed, epochs=1)
    rows = {int(row.settings["student.options.width"]): row for row in study.run(machine, lambda _: None)}
    winner = study.standings.find_winner()
    told = describe_ties(study.standings, winner)
    return Study(machine, rows, get_width(Variant(0, winner.settings)) if winner else None, told)


def test_a_variant_that_only_a_busy_machine_made_fast_is_timed_again_and_not_trained() -> None:
    found = run_study({4: 3.0, 8: 5.2, 12: 5.0}, together={8: 5.0, 12: 9.0})
    assert (found.machine.trained, found.machine.compared, found.winner) == ([12], [[8, 12]], 12)
    assert {width: row.status for width, row in found.rows.items()} == {12: "kept", 8: "cannot win", 4: "cannot win"}
    assert {width: row.speedup for width, row in found.rows.items()} == {12: 9.0, 8: 5.0, 4: 3.0}
    assert found.rows[8].reason == "a faster one keeps all promises; both were timed again, in the same rounds"
    assert found.rows[4].reason == "a better one keeps all promises"
    assert found.told == []


def test_a_variant_that_a_busy_machine_made_slow_is_timed_again_trained_and_wins() -> None:
    found = run_study({8: 4.8, 12: 5.0}, together={8: 9.0, 12: 5.0})
    assert (found.machine.trained, found.machine.compared, found.winner) == ([12, 8], [[8, 12]], 8)


def test_speeds_that_are_told_apart_are_timed_once() -> None:
    found = run_study({4: 9.0, 8: 3.5, 12: 5.0}, together={}, doubt=0.1)
    assert (found.machine.trained, found.machine.compared, found.winner) == ([12, 4], [], 4)


def test_what_a_second_timing_brings_near_is_compared_too() -> None:
    found = run_study({6: 6.8, 8: 9.3, 12: 10.0}, together={6: 8.4, 8: 8.5, 12: 8.6})
    assert (found.machine.trained, found.machine.compared, found.winner) == ([12], [[8, 12], [6, 12]], 12)
    winner = "A second timing, in the same rounds, cannot tell the winner, speedup 8.6 (8.5 to 8.7), from: "
    others = "width 8, speedup 8.5 (8.4 to 8.6); width 6, speedup 8.4 (8.3 to 8.5)."
    assert found.told == [winner + others]


def test_what_is_left_out_for_the_number_of_trials_is_compared_all_the_same() -> None:
    found = run_study({8: 5.2, 12: 5.0}, together={8: 9.0, 12: 5.0}, trials=1)
    assert (found.machine.trained, found.machine.compared, found.winner) == ([12], [[8, 12]], 12)
    assert (found.rows[8].status, found.rows[8].reason) == ("not reached", "all trials were used")


def test_a_second_timing_decides_about_the_promised_speed_too() -> None:
    found = run_study({8: 2.4, 12: 3.2}, together={8: 4.0, 12: 2.0})
    assert found.machine.compared == [[8, 12]]
    assert (found.rows[12].status, found.rows[12].reason) == ("broke", "speedup 2, promised at least 3")
    assert found.rows[12].shortfall == pytest.approx(1 / 3)
    assert (found.machine.trained, found.winner) == ([12, 8], 8)


def test_all_that_may_be_as_fast_are_compared_as_many_at_once_as_can_be_open() -> None:
    first = dict.fromkeys(range(1, 21), 5.0)
    found = run_study(first, together={width: 5.0 + 0.2 * (width == 12) for width in first})
    assert [len(names) for names in found.machine.compared] == [ENGINES_AT_ONCE, 20 - ENGINES_AT_ONCE + 1]
    assert all(12 in names for names in found.machine.compared)
    assert (found.machine.trained, found.winner) == ([12], 12)


def test_several_are_trained_at_once_and_then_compared() -> None:
    found = run_study({6: 5.1, 8: 5.2, 12: 5.0}, together={6: 7.0, 8: 6.0, 12: 5.0}, parallel=2)
    assert found.machine.trained[0] == 12
    assert found.machine.compared == [[6, 8, 12]]
    assert found.winner == 6


@pytest.mark.parametrize("objective", ["size", "score"])
def test_where_speed_is_no_objective_nothing_is_timed_again(objective: str) -> None:
    assert run_study({8: 5.0, 12: 5.0}, together={}, objective=objective).machine.compared == []


@pytest.mark.parametrize(
    ("dimensions", "overrides", "own"),
    [
        ({"student.options.width": (8, 12), "targets.cpu.precision": ("fp32", "int8")}, (), ["width 12, precision int8"]),
        ({"student.options.width": (8, 12)}, ("student.options.width=8",), ["width 8"]),
        ({"student.options.width": (12, 16), "student.options.blocks": (1, 2)}, (), ["width 12, blocks 1", "width 12, blocks 2"]),
        ({"student.options.width": (8, 16)}, (), []),
        ({"student.options.blocks": (1, 2)}, (), []),  # the recipe leaves it to the network
        ({"student.batch": (64, 128), "student.epochs": (3, 6)}, (), ["batch 128, epochs 6"]),  # the stage's own batch
        ({"student.inherit": (True, False)}, (), ["inherit False"]),
    ],
)
def test_the_recipe_s_own_student_is_known_among_the_variants(
    dimensions: dict[str, tuple[object, ...]], overrides: tuple[str, ...], own: list[str]
) -> None:
    search = RecipeSearch("demo", Store(Path("store")), SearchSpace(dimensions=dimensions), "cpu", overrides)
    assert [each.title for each in search.variants if search.has_own_values(each)] == own
