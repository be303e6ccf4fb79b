"""Notes: what the reader of a search should know of it, in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from attar.proof.report.formatting import format_score
from attar.search.contest import overlap
from attar.search.result import VariantResult, count_epochs
from attar.search.speeds import Timing
from attar.search.variant import RecipeSearch, Variant

UNTRAINED = ("too slow", "cannot win", "refused")
"""What a search knows without a training."""
RIVALS = ("kept", "cannot win")
"""What may be as good as the winner, and was timed beside it."""
WIDE = 0.1
"""The distance of a bound from its speedup, as a share of it, that no idle machine has shown for
half of the variants: it was 0.04 on one and 0.13 beside tests."""
UNEVEN = 1.25
"""How many times as long one engine may take in one group as in another."""


def describe_unrest(timing: Timing, search: RecipeSearch) -> list[str]:
    """Return that something else ran while the variants were timed, and what to do."""
    uncertain, spread = estimate_uncertainty(timing), timing.reference_spread
    signs = []
    if uncertain > WIDE:
        signs.append(f"half of the speedups are uncertain by {uncertain:.0%} or more")
    if spread > UNEVEN:
        signs.append(
            f"the teacher's graph took {spread:.2g} times as long beside some variants as beside "
            "others"
        )
    if not signs:
        return []
    again = f"--set targets.{search.target}.repeats={search.measure.repeats + 1}"
    told = (
        f"The machine was busy while the variants were timed: {', and '.join(signs)}. Search again "
        f"when nothing else runs, with {again}: another number of repeats times all engines anew, "
        "and no training is repeated."
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
    """Return which variants may be as fast as the winner, though they were timed beside it."""
    if winner is None or objective != "speedup":
        return []
    close = [
        each
        for each in variants
        if each.status in RIVALS and each.name != winner.name and overlap(each, winner)
    ]
    if not close:
        return []
    named = "; ".join(f"{each.title} ({format_speedup(each)})" for each in close)
    told = (
        f"As fast as the winner ({format_speedup(winner)}) within the bounds of a second timing, "
        f"side by side: {named}."
    )
    return [told]


def format_speedup(each: VariantResult) -> str:
    bounds = f", {each.bounds.low:.3g} to {each.bounds.high:.3g}" if each.bounds else ""
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
