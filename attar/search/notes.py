"""Notes: what the reader of a search should know of it, in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence

from attar.proof.report.formatting import format_score
from attar.search.recipe_search import RecipeSearch
from attar.search.result import VariantResult, count_epochs
from attar.search.speeds import Timing
from attar.search.variant import Variant

UNTRAINED = ("too slow", "cannot win", "refused")
"""What a search knows without a training."""
UNFINISHED = {"refused": "not built or timed", "failed": "not trained or measured to the end"}
"""What was not done with a variant, by its status."""
MOST_UNCERTAINTY = 0.1
"""How far the bounds of half of the speedups may be from them, as a share, on an idle machine. It
was 0.01 on one, and 0.21 beside tests on all cores."""
MOST_NAMED = 3
"""Variants that are named as fast as the winner."""
MOST_SPREAD = 1.25
"""How many times as long the reference may take beside some engines as beside others."""


def describe_busy_machine(timing: Timing, search: RecipeSearch) -> list[str]:
    """Return that something else ran while variants were timed, and what to do. Nothing, if no
    speed decides."""
    if search.space.objective != "speedup" and search.limits.speedup is None:
        return []
    uncertainty, spread = estimate_uncertainty(timing), timing.reference_spread
    signs = []
    if uncertainty > MOST_UNCERTAINTY:
        signs.append(f"half of the speedups are uncertain by {uncertainty:.0%} or more")
    if spread > MOST_SPREAD:
        signs.append(
            f"the teacher's graph took {spread:.2g} times as long beside some variants as beside "
            "others"
        )
    if not signs:
        return []
    repeats = f"--set targets.{search.target}.repeats={2 * search.measure.repeats}"
    told = (
        f"The machine was busy while variants were timed: {', and '.join(signs)}. Search again "
        f"when nothing else runs, with {repeats}, which times all engines anew and repeats no "
        "training."
    )
    return [told]


def estimate_uncertainty(timing: Timing) -> float:
    """Return how far the bounds of a speedup are from it, as a share of it: the median of all."""
    engines = [engine for each in timing.variants for engine in each.timed.values()]
    shares = [
        (engine.bounds.high - engine.bounds.low) / (2 * engine.speedup)
        for engine in engines
        if engine.bounds
    ]
    return statistics.median(shares) if shares else 0.0


def describe_ties(
    variants: Sequence[VariantResult], winner: VariantResult | None, objective: str
) -> list[str]:
    """Return which variants may be as fast as the winner: all were timed in the same rounds."""
    if winner is None or objective != "speedup":
        return []
    close = [
        each
        for each in variants
        if each.name != winner.name
        and each.status in ("kept", "cannot win")
        and have_common_speed(each, winner)
    ]
    if not close:
        return []
    named = [f"{each.title}, speedup {format_speedup(each)}" for each in close[:MOST_NAMED]]
    rest = [f"and {len(close) - MOST_NAMED} more"] if len(close) > MOST_NAMED else []
    told = (
        f"As fast as the winner, speedup {format_speedup(winner)}, within bounds: "
        f"{'; '.join([*named, *rest])}."
    )
    return [told]


def have_common_speed(one: VariantResult, other: VariantResult) -> bool:
    """Whether the bounds of both speedups hold one value."""
    if one.bounds is None or other.bounds is None:
        return False
    return one.bounds.low <= other.bounds.high and other.bounds.low <= one.bounds.high


def format_speedup(each: VariantResult) -> str:
    bounds = f" ({each.bounds.low:.3g} to {each.bounds.high:.3g})" if each.bounds else ""
    return f"{each.speedup:.3g}{bounds}"


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


def describe_unfinished(variants: Sequence[VariantResult], ruled_out: Collection[str]) -> list[str]:
    """Return how many variants could not be built or trained, and why the first of each could not.
    ``ruled_out`` are the names of those that were never tried."""
    tried = [each for each in variants if each.name not in ruled_out]
    notes: list[str] = []
    for status, undone in UNFINISHED.items():
        unfinished = [each for each in tried if each.status == status]
        if unfinished:
            count = f"{len(unfinished)} of {len(variants)} variants were {undone}"
            notes.append(f"{count}, such as {unfinished[0].title}: {unfinished[0].reason}")
    return notes


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
