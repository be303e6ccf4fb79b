"""Run a search: time all variants untrained, train those that may win, and describe the result."""

from __future__ import annotations

from collections.abc import Sequence

from attar.proof.report.formatting import format_score
from attar.search.result import SearchResult, VariantResult, count_epochs
from attar.search.runner import LocalRunner, Runner
from attar.search.speeds import Show
from attar.search.study import VariantStudy
from attar.search.variant import RecipeSearch, Variant

UNTRAINED = ("too slow", "cannot win", "refused")
"""What a search knows without a training."""


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
            describe_savings(variants, student.epochs),
            *describe_ruled_out(search),
            *describe_prices(variants, winner),
        ),
    )


def describe_savings(variants: Sequence[VariantResult], epochs_each: int) -> str:
    """Return how many trainings and epochs the search did without. ``epochs_each`` are those of
    a student whose settings do not name them."""
    counts = {status: count_status(variants, status) for status in (*UNTRAINED, "stopped")}
    epochs = count_epochs(variants)
    whole = {each.student: each.get_epochs(epochs_each) for each in map(restore, variants)}
    return (
        f"Of {len(variants)} variants, {counts['too slow']} are slower than promised and "
        f"{counts['cannot win']} could not beat one that keeps all promises: no student was "
        f"trained for them. {counts['stopped']} were stopped early. Trained were "
        f"{sum(epochs.values())} of the {sum(whole.values())} epochs of all students."
    )


def describe_ruled_out(search: RecipeSearch) -> list[str]:
    """Return how many variants were never built, and why the first one was not."""
    if not search.ruled_out:
        return []
    count, first = len(search.ruled_out), next(iter(search.ruled_out.values()))
    told = "variants were never built, since their task or network rules them out"
    return [f"{count} of {len(search.variants)} {told}: {first}"]


def restore(result: VariantResult) -> Variant:
    return Variant(0, result.settings)


def count_status(variants: Sequence[VariantResult], status: str) -> int:
    return sum(each.status == status for each in variants)


def describe_prices(variants: Sequence[VariantResult], winner: VariantResult | None) -> list[str]:
    """Return what a better score would cost in speed, and what more speed would cost in score."""
    if winner is None or winner.score is None or winner.speedup is None:
        return []
    notes: list[str] = []
    better = [each for each in list_front(variants) if (each.score or 0.0) > winner.score]
    faster = [each for each in list_front(variants) if (each.speedup or 0.0) > winner.speedup]
    for each in [*better[:1], *faster[-1:]]:
        gained = format_score((each.score or 0.0) - winner.score)
        times = (each.speedup or 0.0) / winner.speedup
        notes.append(f"{each.title}: {gained} of score, at {times:.3g} times the winner's speed.")
    return notes


def list_front(variants: Sequence[VariantResult]) -> list[VariantResult]:
    """Return the trained variants that no other beats in speed and score, the fastest first."""
    front: list[VariantResult] = []
    for each in sorted(variants, key=lambda item: -(item.speedup or 0.0)):
        if each.score is not None and (not front or each.score > (front[-1].score or 0.0)):
            front.append(each)
    return front
