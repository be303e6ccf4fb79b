"""Run a search: time all variants untrained, train those that may win, and describe the result."""

from __future__ import annotations

from attar.search.code_watch import CodeWatch
from attar.search.notes import (
    describe_busy_machine,
    describe_prices,
    describe_ruled_out,
    describe_savings,
    describe_ties,
    describe_unfinished,
)
from attar.search.recipe_search import RecipeSearch
from attar.search.result import SearchResult
from attar.search.runner import LocalRunner, Runner
from attar.search.speeds import Show
from attar.search.study import VariantStudy


def run_search(search: RecipeSearch, show: Show, runner: Runner | None = None) -> SearchResult:
    """Return what was found of all variants. What the store has is made no second time.

    Everything is run here unless there is a ``runner``.

    Raises StageError if the teacher, the timing or a trial breaks.
    """
    student = search.student
    runner = runner or LocalRunner(CodeWatch.start(search))
    timing = runner.time_variants(search, show)
    study = VariantStudy(search, timing.variants, student.epochs, student.seed)
    variants = tuple(study.run(runner, show))
    known = study.standings
    winner = known.find_winner()
    limits = search.limits.model_dump(exclude={"hops", "regression"}, exclude_none=True)
    return SearchResult(
        recipe=search.open([]).recipe.title,
        objective=search.space.objective,
        variants=variants,
        winner=winner.name if winner else None,
        score_name=known.score_name,
        promises=limits,
        teacher_score=known.teacher_score,
        reference_p50=timing.reference_p50,
        epochs_each=student.epochs,
        notes=(
            *describe_busy_machine(timing, search),
            *describe_ties(variants, winner, search.space.objective),
            describe_savings(variants, student.epochs),
            *describe_ruled_out(search),
            *describe_unfinished(variants, search.ruled_out),
            *describe_prices(variants, winner),
        ),
    )
