"""The study: which variants are trained next.

Optuna's tree-structured Parzen estimator samples (Akiba et al. 2019, arXiv:1907.10902; Watanabe
2023, arXiv:2304.11127), with the broken promises as its constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState

from attar.pipeline.core.errors import StageError
from attar.pipeline.recipe.search_space import SearchSpace
from attar.search.objective import SearchObjective
from attar.search.recipe_search import RecipeSearch
from attar.search.result import VariantResult
from attar.search.speeds import Show, VariantSpeeds
from attar.search.standings import Standings
from attar.search.stopping import create_rule
from attar.search.trial import TrialEnd, TrialPlan
from attar.search.variant import Variant

if TYPE_CHECKING:
    from attar.search.runner import Runner

ASKS = 20
"""Suggestions of the sampler that may be known already, before one of the rest is taken."""
SHORTFALL = "shortfall"
"""The constraint of a trial: how far its worst promise is broken."""


@dataclass(frozen=True)
class AskedVariant:
    """A variant that the sampler asks for."""

    speeds: VariantSpeeds
    trial: Trial


@dataclass
class VariantStudy:
    """Asks a sampler which variant to train next, and tells it what came out."""

    search: RecipeSearch
    timed: InitVar[Sequence[VariantSpeeds]]
    epochs: InitVar[int]
    """Of a whole training, unless the variant says otherwise."""
    seed: int = 0
    students: set[str] = field(default_factory=set)
    """The settings of the students that were trained. Targets of one student share it."""
    tried: int = 0
    errors: list[StageError] = field(default_factory=list)
    """Of the variants that failed."""

    def __post_init__(self, timed: Sequence[VariantSpeeds], epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space, objective = self.search.space, SearchObjective(self.search.space.objective)
        self.standings = Standings(timed, objective, self.search.limits.speedup, epochs)
        sampler = TPESampler(
            seed=self.seed,
            n_startup_trials=max(2, space.trials // 3),
            constant_liar=space.parallel > 1,
        )
        self.study = optuna.create_study(sampler=sampler, direction="maximize")
        self.distributions = list_distributions(space)

    def run(self, runner: Runner, show: Show) -> list[VariantResult]:
        """Train variants until none is left that may win, or all trials are used; return the rows
        of all, the fastest first. What is asked next depends on whole batches alone, so it is the
        same wherever they run.

        Raises StageError if every training failed.
        """
        while batch := self.ask_batch():
            plans = [self.plan(each.speeds) for each in batch]
            ends = runner.run_trials(self.search, plans, show)
            for each, end in zip(batch, ends, strict=True):
                self.inform_sampler(each.trial, end, self.standings.record(each.speeds, end))
        if self.errors and len(self.errors) == self.tried:
            raise self.errors[0]
        return self.standings.list_rows()

    def list_left(self) -> list[VariantSpeeds]:
        """Return the variants that may still win, the fastest first."""
        is_full = len(self.students) >= self.search.space.trials
        left = [
            each
            for each in self.standings.list_undecided()
            if self.standings.can_win(each)
            and not (is_full and each.variant.student not in self.students)
        ]
        return sorted(left, key=lambda each: -each.speed)

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
        variant, known = speeds.variant, self.standings
        epochs, prior = variant.get_epochs(known.epochs), known.get_prior(speeds)
        rule = create_rule(epochs, prior, variant.conversion, known.rivals)
        return TrialPlan(variant, rule)

    def inform_sampler(self, trial: Trial, end: TrialEnd, result: VariantResult) -> None:
        """Tell the sampler how a trial ended."""
        self.tried += 1
        if isinstance(end, StageError):
            self.errors.append(end)
            self.study.tell(trial, state=TrialState.FAIL)
            return
        for epoch, score in end.scores.items():
            trial.report(score, epoch)
        trial.set_constraint(SHORTFALL, result.shortfall if end.candidates else 1.0)
        if end.candidates and result.status != "failed":
            self.study.tell(trial, self.standings.objective.read(result))
        else:
            self.study.tell(trial, state=TrialState.PRUNED)


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
