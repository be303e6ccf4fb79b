"""Which variants are trained, and which trainings are stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipeline.recipe.search_space import SearchSpace
from attar.pipeline.store.store import Store
from attar.search.recipe_search import RecipeSearch
from attar.search.study import encode, is_ordered, list_distributions
from attar.search.variant import Variant

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
