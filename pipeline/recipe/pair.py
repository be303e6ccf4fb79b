"""Pair: a target that is to be fast at two batch sizes gets an engine for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.recipe.slot import Table

KEY = "optimize_for"
SUFFIX = "-batch"
"""What the slots of the engine for batches have behind the target's name. No target has it."""
SINGLE, BATCH = "single.", "batch."
"""What stands before a paired slot's name where wires name that of one engine of a pair."""
EXAMPLE = f'{KEY} = [1, 32], or {KEY} = [1, "throughput"]'


def read_batch_sizes(target: str, settings: Table, *, has_candidates: bool) -> Sequence[Any]:
    """Return what a target is to be fast at: nothing, one batch size, or two.

    Raises RecipeError for a list that is not 1 and a larger size, and for two sizes without
    candidates to choose from.
    """
    if KEY not in settings:
        return ()
    given = settings[KEY]
    if not isinstance(given, list):
        return (given,)
    place = f"[targets.{target}] {KEY} = {given!r}"
    if len(given) != 2 or given[0] != 1 or not is_larger(given[1], settings):
        raise RecipeError(
            f"{place}: a list is for two engines, one for single samples and one for batches; "
            f"write {EXAMPLE}, or one size without a list"
        )
    if not has_candidates:
        raise RecipeError(
            f"{place} asks for two engines, and the target has one form of its engine; add "
            'candidates = "all", or name one size without a list'
        )
    return given


def is_larger(size: Any, settings: Table) -> bool:
    """Whether a batch size of the list means more than one sample."""
    if size == "throughput":
        return bool(settings.get("batch") != 1)
    return isinstance(size, int) and size > 1
