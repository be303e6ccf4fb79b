"""The objective of a search: what is best among the variants that keep all promises."""

from __future__ import annotations

from dataclasses import dataclass

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.recipe.search_space import ObjectiveName
from attar.proof.ledger.speeds import EngineSpeed
from attar.search.result import VariantResult
from attar.search.speeds import VariantSpeeds


@dataclass(frozen=True)
class SearchObjective:
    """More of it is better."""

    name: ObjectiveName

    @property
    def follows_score(self) -> bool:
        """Whether a training that is behind in its score will be no better in this than one that is
        as good before it. One may be the most like the teacher without the best score."""
        return self.name not in ("correlation", "agreement")

    def estimate(self, engine: EngineSpeed) -> float | None:
        """Return the value of an engine whose network is untrained; None if training decides."""
        match self.name:
            case "speedup":
                return engine.speedup
            case "size":
                return -float(engine.size_bytes)
        return None

    def estimate_best(self, speeds: VariantSpeeds) -> float | None:
        """Return the value of the best engine of an untrained variant; None if training decides."""
        values = [self.estimate(engine) for engine in speeds.timed.values()]
        return max((value for value in values if value is not None), default=None)

    def read(self, result: VariantResult) -> float:
        """Return the value of a trained variant. Raises RecipeError if the task has no such
        measure."""
        if self.name == "size":
            return -float(result.size_bytes or 0)
        value = getattr(result, self.name)
        if value is None:
            raise RecipeError(
                f"search.objective = {self.name!r}: this task has no {self.name}; choose another"
            )
        return float(value)
