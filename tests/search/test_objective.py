"""What is best among the variants that keep all promises."""

from __future__ import annotations

import pytest

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.recipe.search_space import ObjectiveName
from attar.proof.ledger.speeds import EngineSpeed
from attar.search.objective import SearchObjective
from attar.search.result import VariantResult
from attar.search.speeds import VariantSpeeds
from attar.search.variant import Variant

ENGINES = {
    "c0": EngineSpeed(size_bytes=400, speedup=2.0),
    "c1": EngineSpeed(size_bytes=100, speedup=1.5),
    "c2": EngineSpeed("no such runtime"),
}
SPEEDS = VariantSpeeds(Variant(1, {"student.options.width": 8}), ENGINES, 1)
ROW = VariantResult("v1", "", {}, "kept", "", speedup=1.5, size_bytes=100, score=0.9)


@pytest.mark.parametrize(
    ("name", "untrained", "trained"), [("speedup", 2.0, 1.5), ("size", -100.0, -100.0), ("score", None, 0.9)]
)
def test_speed_and_size_are_known_before_a_training_and_measures_after_it(
    name: ObjectiveName, untrained: float | None, trained: float
) -> None:
    assert SearchObjective(name).estimate_best(SPEEDS) == untrained
    assert SearchObjective(name).read(ROW) == trained


def test_a_measure_that_the_task_does_not_have_is_named() -> None:
    with pytest.raises(RecipeError, match="agreement"):
        SearchObjective("agreement").read(ROW)
