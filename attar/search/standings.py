"""Standings: what a search knows of all its variants so far, and which is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, replace

from attar.pipeline.core.errors import StageError
from attar.search.descriptions import describe, describe_slowness, describe_trained
from attar.search.objective import SearchObjective
from attar.search.result import VariantResult
from attar.search.speed_comparisons import SpeedComparisons
from attar.search.speeds import VariantSpeeds
from attar.search.stopping import Rival
from attar.search.trial import TrialEnd, TrialOutcome
from attar.stages.choose.speeds import ENGINES_AT_ONCE

STOPPED = (
    "at the same share of its training it was behind one that keeps all promises and is no "
    "worse otherwise, or whose answers broke a promise in the end"
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
    """Of the variants of which something is decided, by name, as all that follows."""
    outcomes: dict[str, TrialOutcome] = field(default_factory=dict)
    """Of the trainings that are whole."""
    rivals: dict[str, Rival] = field(default_factory=dict)
    comparisons: SpeedComparisons = field(default_factory=SpeedComparisons)
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
        if winner is None or value is None:
            return True
        faster = self.comparisons.get_faster(speeds.variant.name, winner.name)
        return value > self.objective.read(winner) if faster is None else faster != winner.name

    def choose_compared(self) -> list[str]:
        """Return the names of the best variant and of those to time beside it, as many as can be
        open at once; none if all that may be as fast were compared with it."""
        best = self.find_winner()
        if best is None or self.objective.name != "speedup":
            return []
        rows = [describe(each, "not reached", "") for each in self.list_undecided()]
        rows += [each for each in self.results.values() if each.status in ("kept", "too slow")]
        names, room = [best.name], ENGINES_AT_ONCE - len(self.speeds[best.name].timed)
        for each in self.comparisons.list_doubtful(best, rows):
            room -= len(self.speeds[each.name].timed)
            if room >= 0 or len(names) == 1:
                names.append(each.name)
        return names if len(names) > 1 else []

    def compare(self, timed: Sequence[VariantSpeeds]) -> None:
        """Take the speeds of variants that were timed in the same rounds. From now on they decide
        between any two of them."""
        for speeds in timed:
            self.correct(speeds)
        names = [speeds.variant.name for speeds in timed]
        self.comparisons.record({name: self.get_speed(name) for name in names})

    def get_speed(self, name: str) -> float:
        """Return the speedup of the engine that a trained variant has, of another its largest."""
        trained = self.results[name].speedup if name in self.outcomes else None
        return self.speeds[name].speed if trained is None else trained

    def correct(self, speeds: VariantSpeeds) -> None:
        """Replace the speeds of a variant, and what follows from them."""
        name = speeds.variant.name
        self.speeds[name] = speeds
        if name in self.outcomes:
            self.judge(speeds, self.outcomes[name])
        else:
            self.results.pop(name, None)
            self.sort_out(speeds)

    def get_prior(self, speeds: VariantSpeeds) -> float:
        """Return the objective of a variant before its training; its speed if that decides it."""
        value = self.objective.estimate_best(speeds)
        return speeds.speed if value is None else value

    def record(self, speeds: VariantSpeeds, end: TrialEnd) -> None:
        """Keep the row of a trial that has ended."""
        name = speeds.variant.name
        if isinstance(end, StageError):
            self.results[name] = describe(speeds, "failed", str(end))
        elif not end.candidates:
            self.results[name] = replace(describe(speeds, "stopped", STOPPED), epochs=end.epochs)
        else:
            self.outcomes[name] = end
            self.teacher_score, self.score_name = end.teacher_score, end.score_name
            self.judge(speeds, end)

    def judge(self, speeds: VariantSpeeds, outcome: TrialOutcome) -> None:
        """Keep the best candidate of a trained variant, and what it means for others."""
        result = self.choose_candidate(speeds, outcome)
        name = speeds.variant.name
        self.results[name] = result
        self.rivals[name] = Rival(
            epochs=speeds.variant.get_epochs(self.epochs),
            scores=outcome.scores,
            noise=outcome.noise,
            prior=self.get_prior(speeds),
            conversion=speeds.variant.conversion,
            keeps_promises=result.status == "kept",
            breaks_answers=all(each.breaks_answers for each in outcome.candidates),
        )

    def choose_candidate(self, speeds: VariantSpeeds, outcome: TrialOutcome) -> VariantResult:
        fast = [
            each
            for each in outcome.candidates
            if self.limit is None or speeds.engines[each.name].speedup >= self.limit
        ]
        results = [
            describe_trained(speeds, each, outcome.epochs, self.limit)
            for each in fast or outcome.candidates
        ]
        kept = [each for each in results if each.status == "kept"]
        if kept:
            return max(kept, key=self.objective.read)
        return min(results, key=lambda each: each.shortfall)

    def explain_untrained(self, speeds: VariantSpeeds) -> VariantResult:
        winner = self.find_winner()
        if winner is None or self.can_win(speeds):
            return describe(speeds, "not reached", "all trials were used")
        reason = "a better one keeps all promises"
        if self.comparisons.get_faster(speeds.variant.name, winner.name):
            reason = "a faster one keeps all promises; both were timed again, in the same rounds"
        return describe(speeds, "cannot win", reason)

    def list_rows(self) -> list[VariantResult]:
        """Return the rows of all variants, the fastest first, when no other will be trained."""
        untrained = [self.explain_untrained(each) for each in self.list_undecided()]
        return sorted([*self.results.values(), *untrained], key=lambda each: -(each.speedup or 0.0))

    def list_kept(self) -> list[VariantResult]:
        return [each for each in self.results.values() if each.status == "kept"]

    def find_winner(self) -> VariantResult | None:
        winner: VariantResult | None = None
        for each in self.list_kept():
            if winner is None or self.is_better(each, winner):
                winner = each
        return winner

    def is_better(self, one: VariantResult, other: VariantResult) -> bool:
        """Whether the first of two trained variants has more of the objective."""
        faster = self.comparisons.get_faster(one.name, other.name)
        if faster is not None:
            return faster == one.name
        return self.objective.read(one) > self.objective.read(other)
