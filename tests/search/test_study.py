"""Which variants are trained, and which trainings are stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attar.pipeline.recipe.search_space import SearchSpace
from attar.pipeline.run import Record
from attar.pipeline.store.store import Store
from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.ledger.speeds import EngineSpeed
from attar.search.result import VariantResult
from attar.search.runner import TrialEnd
from attar.search.speeds import Show, Timing, VariantSpeeds
from attar.search.study import VariantStudy, encode, is_ordered, list_distributions
from attar.search.trial import CandidateOutcome, TrialOutcome, TrialPlan
from attar.search.variant import RecipeSearch, Variant

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
class Bench:
    """In the place of a machine: what trainings and timings say is prescribed."""

    again: Mapping[int, float]
    """Speedups of a second timing, by width."""
    trained: list[int] = field(default_factory=list)
    retimed: list[list[str]] = field(default_factory=list)

    def time_variants(self, search: RecipeSearch, show: Show) -> Timing:
        raise NotImplementedError

    def time_again(self, search: RecipeSearch, names: Sequence[str], show: Show) -> Timing:
        self.retimed.append(list(names))
        chosen = [each for each in search.variants if each.name in names]
        return Timing([make_speeds(each, self.again[get_width(each)], 0.1) for each in chosen], 100.0)

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


def run_study(bench: Bench, first: Mapping[int, float], doubt: float) -> tuple[dict[int, VariantResult], VariantResult | None]:
    """Search among widths whose own student has a width of 12; return all rows and the winner."""
    space = SearchSpace(dimensions={"student.options.width": tuple(first)})
    search = RecipeSearch("demo", Store(Path("store")), space, "cpu")
    timed = [make_speeds(each, first[get_width(each)], doubt) for each in search.variants]
    study = VariantStudy(search, timed, epochs=1)
    rows = study.run(bench, lambda _: None)
    return {int(row.settings["student.options.width"]): row for row in rows}, study.find_winner()


def test_a_variant_that_only_a_busy_machine_made_fast_is_timed_again_and_not_trained() -> None:
    bench = Bench(again={8: 5.0, 12: 9.0})
    rows, winner = run_study(bench, {4: 3.1, 8: 5.2, 12: 5.0}, doubt=0.5)
    assert (bench.trained, bench.retimed) == ([12], [["v3", "v2"]])
    assert winner == rows[12]
    assert {width: row.status for width, row in rows.items()} == {12: "kept", 8: "cannot win", 4: "cannot win"}
    assert (rows[12].speedup, rows[8].speedup, rows[4].speedup) == (9.0, 5.0, 3.1)
    assert rows[8].reason == "a better one keeps all promises; both were timed again, side by side"
    assert rows[4].reason == "a better one keeps all promises"


def test_a_variant_that_a_busy_machine_made_slow_is_timed_again_and_wins() -> None:
    bench = Bench(again={8: 9.0, 12: 5.0})
    rows, winner = run_study(bench, {8: 4.8, 12: 5.0}, doubt=0.5)
    assert (bench.trained, bench.retimed) == ([12, 8], [["v2", "v1"]])
    assert winner == rows[8]


def test_speeds_that_are_told_apart_are_timed_once() -> None:
    bench = Bench(again={})
    rows, winner = run_study(bench, {4: 9.0, 8: 4.0, 12: 5.0}, doubt=0.1)
    assert (bench.trained, bench.retimed) == ([12, 4], [])
    assert winner == rows[4]


def test_a_variant_whose_second_timing_breaks_the_promised_speed_is_not_trained() -> None:
    bench = Bench(again={8: 2.0, 12: 3.5})
    rows, _ = run_study(bench, {8: 3.6, 12: 3.5}, doubt=0.5)
    assert (bench.trained, rows[8].status, rows[8].reason) == ([12], "too slow", "speedup 2, promised at least 3")


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
