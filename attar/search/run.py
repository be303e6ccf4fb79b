"""Run a search: time all variants untrained, train those that may win, and describe the result."""

from __future__ import annotations

from attar.search.notes import (
    describe_prices,
    describe_ruled_out,
    describe_savings,
    describe_ties,
    describe_unrest,
)
from attar.search.result import SearchResult
from attar.search.runner import LocalRunner, Runner
from attar.search.speeds import Show
from attar.search.study import VariantStudy
from attar.search.variant import RecipeSearch


def run_search(search: RecipeSearch, show: Show, runner: Runner | None = None) -> SearchResult:
    """Return what was found of all variants. What the store has is made no second time.

    Everything is run here unless there is a ``runner``.

    Raises StageError if the teacher, the timing or a trial breaks.
    """
    student, runner = search.student, runner or LocalRunner()
    timing = runner.time_variants(search, show)
    study = VariantStudy(search, timing.variants, student.epochs, student.seed)
    variants = tuple(study.run(runner, show))
    winner = study.find_winner()
    limits = search.limits.model_dump(exclude={"hops", "regression"}, exclude_none=True)
    return SearchResult(
        recipe=search.open([]).recipe.title,
        objective=search.space.objective,
        variants=variants,
        winner=winner.name if winner else None,
        score_name=study.score_name,
        promises=limits,
        teacher_score=study.teacher_score,
        reference_p50=timing.reference_p50,
        epochs_each=student.epochs,
        notes=(
            *describe_unrest(timing, search),
            *describe_ties(variants, winner, search.space.objective),
            describe_savings(variants, student.epochs),
            *describe_ruled_out(search),
            *describe_prices(variants, winner),
        ),
    )
