"""The study: which variant is trained next, and which training is not worth its end.

Optuna's tree-structured Parzen estimator samples (Akiba et al. 2019, arXiv:1907.10902; Watanabe
2023, arXiv:2304.11127), with the broken promises as its constraints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from attar.pipeline.core.errors import RecipeError, StageError, StoppedError
from attar.pipeline.recipe.search_space import SearchSpace
from attar.proof.ledger.speeds import EngineSpeed
from attar.search.result import VariantResult
from attar.search.speeds import Show, VariantSpeeds
from attar.search.trial import CandidateOutcome, TrialOutcome, run_trial
from attar.search.variant import Search, Variant

ASKS = 20
"""Suggestions of the sampler that may be known already, before the middle of the rest is taken."""
SPEED, NOISE = "speed", "noise"
"""Attributes of a trial: its speedup, and how uncertain its score on validation is."""
BREAKS_ANSWERS = "breaks_answers"
"""An attribute of a trial: whether all its engines break a promise about the answers."""
SHORTFALL = "shortfall"
"""The constraint of a trial: how far its worst promise is broken."""


def suggest_rungs(epochs: int) -> frozenset[int]:
    """Return the epochs after which a training may be stopped: a third and two thirds."""
    return frozenset({math.ceil(epochs / 3), math.ceil(2 * epochs / 3)})


class PromisePruner(BasePruner):
    """Stops a training at a rung if a whole one had the better score at the same epoch, by more
    than its score is uncertain, and is faster or broke a promise about the answers.

    A rung compares all trainings at equal cost, as successive halving does (Jamieson and Talwalkar
    2016, arXiv:1502.07943). It keeps no fixed share, since the fastest variant is sought and not
    that of the best score.
    """

    def __init__(self, rungs: frozenset[int]) -> None:
        self.rungs = rungs

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        epoch = trial.last_step
        if epoch is None or epoch not in self.rungs:
            return False
        own, speed = trial.intermediate_values[epoch], trial.user_attrs[SPEED]
        return any(
            other.intermediate_values[epoch] > own + other.user_attrs[NOISE]
            and (other.user_attrs[SPEED] >= speed or other.user_attrs[BREAKS_ANSWERS])
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        )


@dataclass
class VariantStudy:
    """The variants that are known so far, and the sampler that knows them."""

    search: Search
    speeds: Sequence[VariantSpeeds]
    epochs: int
    """Of a whole training."""
    seed: int = 0
    results: dict[str, VariantResult] = field(default_factory=dict)
    students: set[str] = field(default_factory=set)
    """The settings of the students that were trained. Targets of one student share it."""
    tried: int = 0
    errors: list[StageError] = field(default_factory=list)
    """Of the variants that failed."""
    teacher_score: float | None = None
    score_name: str = "score"

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = TPESampler(
            seed=self.seed,
            n_startup_trials=max(2, self.search.space.trials // 3),
        )
        pruner = PromisePruner(suggest_rungs(self.epochs))
        self.study = optuna.create_study(sampler=sampler, pruner=pruner, direction="maximize")
        self.distributions = list_distributions(self.search.space)

    def run(self, show: Show) -> list[VariantResult]:
        """Train variants until none is left that may win, or all trials are used.

        Raises StageError if every training failed.
        """
        for speeds in self.speeds:
            self.sort_out(speeds)
        while left := self.list_left():
            speeds, trial = self.ask(left)
            self.results[speeds.variant.name] = self.train(speeds, trial, show)
            self.tried += 1
        if self.errors and len(self.errors) == self.tried:
            raise self.errors[0]
        for speeds in self.speeds:
            if speeds.variant.name not in self.results:
                self.results[speeds.variant.name] = self.explain_untrained(speeds)
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
        is_full = len(self.students) >= self.search.space.trials
        left = [
            each
            for each in self.speeds
            if each.variant.name not in self.results
            and self.can_win(each)
            and not (is_full and each.variant.student not in self.students)
        ]
        return sorted(left, key=lambda each: -get_speed(each))

    def can_win(self, speeds: VariantSpeeds) -> bool:
        """Whether a variant may be better than all that keep the promises. A measure on validation
        is not known before the training."""
        kept = [each for each in self.results.values() if each.status == "kept"]
        values = [self.compute_prior(engine) for engine in speeds.timed.values()]
        if not kept or None in values:
            return True
        best = max(self.compute_value(each) for each in kept)
        return max(value for value in values if value is not None) > best

    def compute_prior(self, engine: EngineSpeed) -> float | None:
        """Return an engine's objective, more is better; None if its training decides it."""
        match self.search.space.objective:
            case "speedup":
                return engine.speedup
            case "size":
                return -float(engine.size_bytes)
        return None

    def compute_value(self, result: VariantResult) -> float:
        """Return the objective of a trained variant, more is better. Raises RecipeError if the
        task has no such measure."""
        objective = self.search.space.objective
        if objective == "size":
            return -float(result.size_bytes or 0)
        value = getattr(result, objective)
        if value is None:
            raise RecipeError(
                f"search.objective = {objective!r}: this task has no {objective}; choose another"
            )
        return float(value)

    def ask(self, left: Sequence[VariantSpeeds]) -> tuple[VariantSpeeds, Trial]:
        """Return the next variant to train: the sampler's choice, first the middle by speed."""
        known = {encode(self.search.space, s.variant): s for s in left}
        middle = encode(self.search.space, left[len(left) // 2].variant)
        for attempt in range(ASKS + 1):
            if not self.students or attempt == ASKS:
                self.study.enqueue_trial(dict(middle))
            trial = self.study.ask(self.distributions)
            speeds = known.get(tuple(sorted(trial.params.items())))
            if speeds is not None:
                trial.set_user_attr(SPEED, get_speed(speeds))
                return speeds, trial
            trial.set_user_attr(SPEED, 0.0)
            self.study.tell(trial, state=TrialState.FAIL)
        raise AssertionError("an enqueued trial is always one that is left")

    def train(self, speeds: VariantSpeeds, trial: Trial, show: Show) -> VariantResult:
        def listen(epoch: int, score: float) -> None:
            trial.report(score, epoch)
            if trial.should_prune():
                raise StoppedError("another variant is ahead")

        self.students.add(speeds.variant.student)
        try:
            outcome = run_trial(self.search, speeds.variant, self.search.limits, listen, show)
        except StageError as error:  # a diverged loss says nothing of other variants
            self.study.tell(trial, state=TrialState.FAIL)
            self.errors.append(error)
            return describe(speeds, "failed", str(error))
        if not outcome.candidates:
            trial.set_constraint(SHORTFALL, 1.0)
            self.study.tell(trial, state=TrialState.PRUNED)
            reason = "at the same epoch it was behind one that is faster, or that broke a promise"
            return replace(describe(speeds, "stopped", reason), epochs=outcome.epochs)
        result = self.judge(speeds, outcome)
        trial.set_constraint(SHORTFALL, result.shortfall)
        trial.set_user_attr(NOISE, outcome.noise)
        breaks = all(each.breaks_answers for each in outcome.candidates)
        trial.set_user_attr(BREAKS_ANSWERS, breaks)
        self.study.tell(trial, self.compute_value(result))
        return result

    def judge(self, speeds: VariantSpeeds, outcome: TrialOutcome) -> VariantResult:
        """Return the best candidate of a trained variant."""
        limit = self.search.limits.speedup
        fast = [
            each
            for each in outcome.candidates
            if limit is None or speeds.engines[each.name].speedup >= limit
        ]
        results = [
            describe_trained(speeds, each, outcome.epochs) for each in fast or outcome.candidates
        ]
        self.teacher_score, self.score_name = outcome.teacher_score, outcome.score_name
        kept = [each for each in results if each.status == "kept"]
        if kept:
            return max(kept, key=self.compute_value)
        return min(results, key=lambda each: each.shortfall)

    def explain_untrained(self, speeds: VariantSpeeds) -> VariantResult:
        if self.can_win(speeds):
            reason = f"all {len(self.students)} trials were used"
            return describe(speeds, "not reached", reason)
        reason = "a better one keeps all promises"
        return describe(speeds, "cannot win", reason)

    def find_winner(self) -> VariantResult | None:
        kept = [each for each in self.results.values() if each.status == "kept"]
        return max(kept, key=self.compute_value, default=None)


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


def get_speed(speeds: VariantSpeeds) -> float:
    return speeds.best[1].speedup if speeds.best else 0.0


def describe(
    speeds: VariantSpeeds, status: str, reason: str, engine: EngineSpeed | None = None
) -> VariantResult:
    """Return what is known of a variant before its training."""
    variant = speeds.variant
    result = VariantResult(variant.name, variant.title, variant.settings, status, reason)  # type: ignore[arg-type]  # one of Status
    fastest = engine or (speeds.best and speeds.best[1])
    if not fastest:
        return result
    return replace(
        result,
        p50=fastest.p50[speeds.batch],
        speedup=fastest.speedup,
        bounds=fastest.bounds,
        size_bytes=fastest.size_bytes,
    )


def describe_trained(
    speeds: VariantSpeeds, candidate: CandidateOutcome, epochs: int
) -> VariantResult:
    reason = "; ".join(candidate.broken) or "keeps all promises on validation"
    status = "broke" if candidate.broken else "kept"
    return replace(
        describe(speeds, status, reason, speeds.engines[candidate.name]),
        engine=candidate.title,
        epochs=epochs,
        score=candidate.score,
        correlation=candidate.correlation,
        agreement=candidate.agreement,
        size_bytes=candidate.size_bytes,
        shortfall=candidate.shortfall,
        broken=candidate.broken,
    )
