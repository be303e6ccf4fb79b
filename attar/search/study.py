"""The study: which variants are trained next, and what is known of all.

Optuna's tree-structured Parzen estimator samples (Akiba et al. 2019, arXiv:1907.10902; Watanabe
2023, arXiv:2304.11127), with the broken promises as its constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState

from attar.pipeline.core.errors import StageError
from attar.pipeline.recipe.search_space import SearchSpace
from attar.search.contest import Contest
from attar.search.descriptions import describe, describe_trained
from attar.search.objective import Objective
from attar.search.result import VariantResult
from attar.search.speeds import Show, VariantSpeeds
from attar.search.stopping import Rival, create_rule
from attar.search.trial import TrialOutcome, TrialPlan
from attar.search.variant import RecipeSearch, Variant

if TYPE_CHECKING:
    from attar.search.runner import Runner, TrialEnd

ASKS = 20
"""Suggestions of the sampler that may be known already, before one of the rest is taken."""
SHORTFALL = "shortfall"
"""The constraint of a trial: how far its worst promise is broken."""
STOPPED = (
    "at the same share of its training it was behind one that keeps all promises and is no "
    "worse otherwise, or whose answers broke a promise in the end"
)


@dataclass(frozen=True)
class AskedVariant:
    """A variant that the sampler asks for."""

    speeds: VariantSpeeds
    trial: Trial


@dataclass
class VariantStudy:
    """The variants that are known so far, and the sampler that knows them."""

    search: RecipeSearch
    timed: InitVar[Sequence[VariantSpeeds]]
    epochs: int
    """Of a whole training, unless the variant says otherwise."""
    seed: int = 0
    results: dict[str, VariantResult] = field(default_factory=dict)
    students: set[str] = field(default_factory=set)
    """The settings of the students that were trained. Targets of one student share it."""
    outcomes: dict[str, TrialOutcome] = field(default_factory=dict)
    """Of the trainings that are whole, by variant."""
    rivals: dict[str, Rival] = field(default_factory=dict)
    contest: Contest = field(default_factory=Contest)
    tried: int = 0
    errors: list[StageError] = field(default_factory=list)
    """Of the variants that failed."""
    teacher_score: float | None = None
    score_name: str = "score"

    def __post_init__(self, timed: Sequence[VariantSpeeds]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = self.search.space
        self.speeds = {each.variant.name: each for each in timed}
        self.objective = Objective(space.objective)
        sampler = TPESampler(
            seed=self.seed,
            n_startup_trials=max(2, space.trials // 3),
            constant_liar=space.parallel > 1,
        )
        self.study = optuna.create_study(sampler=sampler, direction="maximize")
        self.distributions = list_distributions(space)

    def run(self, runner: Runner, show: Show) -> list[VariantResult]:
        """Train variants until none is left that may win, or all trials are used. What is asked
        next depends on whole batches alone, so it is the same wherever they run.

        Raises StageError if every training failed.
        """
        for speeds in self.speeds.values():
            self.sort_out(speeds)
        while batch := self.ask_batch():
            plans = [self.plan(each.speeds) for each in batch]
            for each, end in zip(batch, runner.run_trials(self.search, plans, show), strict=True):
                self.tell(each, end)
                self.tried += 1
            self.compare_closely(runner, show)
        if self.errors and len(self.errors) == self.tried:
            raise self.errors[0]
        for name, speeds in self.speeds.items():
            if name not in self.results:
                self.results[name] = self.explain_untrained(speeds)
        return sorted(self.results.values(), key=lambda each: -(each.speedup or 0.0))

    def sort_out(self, speeds: VariantSpeeds) -> None:
        """Record a variant that need not be trained."""
        limit = self.search.limits.speedup
        if speeds.best is None:
            self.results[speeds.variant.name] = describe(speeds, "refused", speeds.why)
            return
        bounds = [engine.bounds for engine in speeds.timed.values() if engine.bounds]
        if limit is not None and max(each.high for each in bounds) < limit:
            _, engine = speeds.best
            reason = f"speedup {engine.speedup:.3g}, promised at least {limit:g}"
            self.results[speeds.variant.name] = describe(speeds, "too slow", reason)

    def list_left(self) -> list[VariantSpeeds]:
        """Return the variants that may still win, the fastest first."""
        left = [each for each in self.list_open() if self.can_win(each)]
        return sorted(left, key=lambda each: -each.speed)

    def list_open(self) -> list[VariantSpeeds]:
        """Return the variants of which nothing is decided, as far as the trials last."""
        is_full = len(self.students) >= self.search.space.trials
        return [
            speeds
            for name, speeds in self.speeds.items()
            if name not in self.results
            and not (is_full and speeds.variant.student not in self.students)
        ]

    def can_win(self, speeds: VariantSpeeds) -> bool:
        """Whether a variant may be better than all that keep the promises. A measure on validation
        is not known before the training."""
        winner, value = self.find_winner(), self.objective.estimate_best(speeds)
        return winner is None or value is None or value > self.objective.read(winner)

    def compare_closely(self, runner: Runner, show: Show) -> None:
        """Time the best variant again beside all whose speed may be as high, in the same rounds.
        The longer timing replaces the first, and decides."""
        best = self.find_winner()
        if best is None or self.objective.name != "speedup":
            return
        untrained = [describe(each, "not reached", "") for each in self.list_open()]
        names = self.contest.invite(best, [*self.list_kept(), *untrained])
        if names:
            for speeds in runner.time_again(self.search, names, show).variants:
                self.correct(speeds)

    def correct(self, speeds: VariantSpeeds) -> None:
        """Replace the speeds of a variant, and what follows from them."""
        name = speeds.variant.name
        self.speeds[name] = speeds
        if name in self.outcomes:
            self.judge(speeds, self.outcomes[name])
        else:
            self.sort_out(speeds)

    def ask_batch(self) -> list[AskedVariant]:
        """Return the variants to train at once, of different students: those of one student share
        its training."""
        batch: list[AskedVariant] = []
        left = self.list_left()
        while left and len(batch) < self.search.space.parallel:
            batch.append(self.ask(left))
            students = {each.speeds.variant.student for each in batch}
            self.students |= students
            left = [each for each in self.list_left() if each.variant.student not in students]
        return batch

    def ask(self, left: Sequence[VariantSpeeds]) -> AskedVariant:
        """Return the next variant to train: the sampler's choice, unless it is the first."""
        known = {encode(self.search.space, s.variant): s for s in left}
        first = encode(self.search.space, self.choose_first(left).variant)
        for attempt in range(ASKS + 1):
            if not self.students or attempt == ASKS:
                self.study.enqueue_trial(dict(first))
            trial = self.study.ask(self.distributions)
            speeds = known.get(tuple(sorted(trial.params.items())))
            if speeds is not None:
                return AskedVariant(speeds, trial)
            self.study.tell(trial, state=TrialState.FAIL)
        raise AssertionError("an enqueued trial is always one that is left")

    def choose_first(self, left: Sequence[VariantSpeeds]) -> VariantSpeeds:
        """Return the recipe's own student, which somebody chose for these promises: once it keeps
        them, nothing slower is trained. If it is not among the variants, the middle by speed."""
        own = [each for each in left if self.search.has_own_values(each.variant)]
        return own[0] if own else left[len(left) // 2]

    def plan(self, speeds: VariantSpeeds) -> TrialPlan:
        variant = speeds.variant
        epochs, prior, rivals = variant.get_epochs(self.epochs), self.get_prior(speeds), self.rivals
        rule = create_rule(epochs, prior, variant.conversion, rivals.values())
        return TrialPlan(variant, rule)

    def get_prior(self, speeds: VariantSpeeds) -> float:
        """Return the objective of a variant before its training; its speed if that decides it."""
        value = self.objective.estimate_best(speeds)
        return speeds.speed if value is None else value

    def tell(self, asked: AskedVariant, end: TrialEnd) -> None:
        """Keep the row of a trial that has ended, and tell the sampler of it."""
        speeds, trial = asked.speeds, asked.trial
        name = speeds.variant.name
        if isinstance(end, StageError):
            self.study.tell(trial, state=TrialState.FAIL)
            self.errors.append(end)
            self.results[name] = describe(speeds, "failed", str(end))
            return
        for epoch, score in end.scores.items():
            trial.report(score, epoch)
        if not end.candidates:
            trial.set_constraint(SHORTFALL, 1.0)
            self.study.tell(trial, state=TrialState.PRUNED)
            self.results[name] = replace(describe(speeds, "stopped", STOPPED), epochs=end.epochs)
            return
        self.outcomes[name] = end
        self.teacher_score, self.score_name = end.teacher_score, end.score_name
        result = self.judge(speeds, end)
        trial.set_constraint(SHORTFALL, result.shortfall)
        self.study.tell(trial, self.objective.read(result))

    def judge(self, speeds: VariantSpeeds, outcome: TrialOutcome) -> VariantResult:
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
        return result

    def choose_candidate(self, speeds: VariantSpeeds, outcome: TrialOutcome) -> VariantResult:
        limit = self.search.limits.speedup
        fast = [
            each
            for each in outcome.candidates
            if limit is None or speeds.engines[each.name].speedup >= limit
        ]
        results = [
            describe_trained(speeds, each, outcome.epochs) for each in fast or outcome.candidates
        ]
        kept = [each for each in results if each.status == "kept"]
        if kept:
            return max(kept, key=self.objective.read)
        return min(results, key=lambda each: each.shortfall)

    def explain_untrained(self, speeds: VariantSpeeds) -> VariantResult:
        if self.can_win(speeds):
            reason = f"all {len(self.students)} trials were used"
            return describe(speeds, "not reached", reason)
        reason = "a better one keeps all promises"
        if self.contest.was_joined_by(speeds.variant.name):
            reason += "; both were timed again, side by side"
        return describe(speeds, "cannot win", reason)

    def list_kept(self) -> list[VariantResult]:
        return [each for each in self.results.values() if each.status == "kept"]

    def find_winner(self) -> VariantResult | None:
        return max(self.list_kept(), key=self.objective.read, default=None)


def list_distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the places of each dimension's values. Numbers have an order, which the sampler
    uses."""
    return {
        name: IntDistribution(0, len(values) - 1)
        if is_ordered(values)
        else CategoricalDistribution(range(len(values)))
        for name, values in space.dimensions.items()
    }


def is_ordered(values: Sequence[object]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float)]
    return len(numbers) == len(values) and numbers == sorted(numbers)


def encode(space: SearchSpace, variant: Variant) -> tuple[tuple[str, int], ...]:
    """Return the place of the variant's value in each dimension."""
    places = {name: space.dimensions[name].index(value) for name, value in variant.settings.items()}
    return tuple(sorted(places.items()))
