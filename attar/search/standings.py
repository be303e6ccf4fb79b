"""Standings: what a search knows of all its variants so far, and which is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, replace

from attar.pipeline.core.errors import StageError
from attar.search.descriptions import describe, describe_slowness, describe_trained
from attar.search.objective import SearchObjective
from attar.search.result import VariantResult
from attar.search.speeds import VariantSpeeds
from attar.search.stopping import Prior, Rival
from attar.search.trial import TrialEnd, TrialOutcome

STOPPED = (
    "at the same share of its training it was behind one that keeps all promises and is no "
    "worse otherwise, or whose score broke a promise in the end"
)


@dataclass
class Standings:
    """Every variant, from its first timing to the row of the report."""

    timed: InitVar[Sequence[VariantSpeeds]]
    objective: SearchObjective
    limit: float | None
    """The promised speedup."""
    epochs: int
    """Of a whole training, unless the variant says otherwise."""
    results: dict[str, VariantResult] = field(default_factory=dict)
    """Of the variants of which something is decided, by name."""
    rivals: list[Rival] = field(default_factory=list)
    teacher_score: float | None = None
    score_name: str = "score"

    def __post_init__(self, timed: Sequence[VariantSpeeds]) -> None:
        self.speeds = {each.variant.name: each for each in timed}
        for each in timed:
            self.sort_out(each)

    def sort_out(self, speeds: VariantSpeeds) -> None:
        """Record a variant that need not be trained."""
        if speeds.best is None:
            self.results[speeds.variant.name] = describe(speeds, "refused", speeds.why)
            return
        bounds = [engine.bounds for engine in speeds.timed.values() if engine.bounds]
        if self.limit is not None and max(each.high for each in bounds) < self.limit:
            _, engine = speeds.best
            reason = describe_slowness(engine, self.limit)
            self.results[speeds.variant.name] = describe(speeds, "too slow", reason)

    def list_undecided(self) -> list[VariantSpeeds]:
        return [each for name, each in self.speeds.items() if name not in self.results]

    def can_win(self, speeds: VariantSpeeds) -> bool:
        """Whether a variant may be better than all that keep the promises. A measure on validation
        is not known before the training."""
        winner, value = self.find_winner(), self.objective.estimate_best(speeds)
        if winner is None:
            return True
        is_fast, best = self.rank(winner)
        if self.is_fast_enough(speeds.speed) is not is_fast:
            return not is_fast
        return value is None or value > best

    def rank(self, result: VariantResult) -> tuple[bool, float]:
        """Return what makes one that keeps all promises better than another. One that only its
        upper bound makes fast enough comes after the others."""
        return self.is_fast_enough(result.speedup), self.objective.read(result)

    def is_fast_enough(self, speedup: float | None) -> bool:
        return (speedup or 0.0) >= (self.limit or 0.0)

    def get_prior(self, speeds: VariantSpeeds) -> Prior:
        value = self.objective.estimate_best(speeds)
        return self.is_fast_enough(speeds.speed), speeds.speed if value is None else value

    def read_prior(self, result: VariantResult) -> Prior:
        """Return the same of a trained variant, of the engine that was chosen: another one may be
        faster."""
        speedup = result.speedup or 0.0
        value = -float(result.size_bytes or 0) if self.objective.name == "size" else speedup
        return self.is_fast_enough(speedup), value

    def record(self, speeds: VariantSpeeds, end: TrialEnd) -> VariantResult:
        """Keep the row of a trial that has ended, and what it means for others."""
        if isinstance(end, StageError):
            result = describe(speeds, "failed", str(end))
        elif not end.candidates:
            result = replace(describe(speeds, "stopped", STOPPED), epochs=end.epochs)
        else:
            self.teacher_score, self.score_name = end.teacher_score, end.score_name
            result = self.choose_candidate(speeds, end)
            self.rivals.append(self.create_rival(speeds, end, result))
        self.results[speeds.variant.name] = result
        return result

    def create_rival(
        self, speeds: VariantSpeeds, outcome: TrialOutcome, result: VariantResult
    ) -> Rival:
        return Rival(
            epochs=speeds.variant.get_epochs(self.epochs),
            scores=outcome.scores,
            noise=outcome.noise,
            prior=self.read_prior(result),
            conversion=speeds.variant.conversion,
            wins_by_score=result.status == "kept" and self.objective.follows_score,
            breaks_score=all(each.breaks_score for each in outcome.candidates),
        )

    def choose_candidate(self, speeds: VariantSpeeds, outcome: TrialOutcome) -> VariantResult:
        """Return the row of the best candidate that was timed untrained, too."""
        results = [
            describe_trained(speeds, each, outcome.epochs, self.limit)
            for each in outcome.candidates
            if each.name in speeds.timed
        ]
        if not results:
            names = ", ".join(each.name for each in outcome.candidates)
            return describe(
                speeds, "failed", f"none of its trained engines was timed untrained: {names}"
            )
        kept = [each for each in results if each.status == "kept"]
        if kept:
            return max(kept, key=self.rank)
        return min(results, key=lambda each: each.shortfall)

    def explain_untrained(self, speeds: VariantSpeeds) -> VariantResult:
        if self.can_win(speeds):
            return describe(speeds, "not reached", "all trials were used")
        return describe(speeds, "cannot win", "a better one keeps all promises")

    def list_rows(self) -> list[VariantResult]:
        """Return the rows of all variants, the fastest first, when no other will be trained."""
        untrained = [self.explain_untrained(each) for each in self.list_undecided()]
        return sorted([*self.results.values(), *untrained], key=lambda each: -(each.speedup or 0.0))

    def find_winner(self) -> VariantResult | None:
        kept = [each for each in self.results.values() if each.status == "kept"]
        return max(kept, key=self.rank, default=None)
