"""What the reader of a search is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attar.pipeline.recipe.search_space import SearchSpace
from attar.pipeline.store.store import Store
from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.ledger.speeds import EngineSpeed
from attar.search.notes import describe_busy_machine, describe_prices, describe_savings, describe_ties, describe_unfinished
from attar.search.recipe_search import RecipeSearch
from attar.search.result import Status, VariantResult
from attar.search.speeds import Timing, VariantSpeeds
from attar.search.variant import Variant

SPACE = SearchSpace(dimensions={"student.options.width": (6, 8, 12)})
SEARCH = RecipeSearch("demo", Store(Path("store")), SPACE, "cpu")


def make_row(name: str, status: Status, speedup: float, score: float | None = None) -> VariantResult:
    bounds = ConfidenceBounds(0.9 * speedup, 1.1 * speedup)
    return VariantResult(name, f"width {name}", {}, status, "", speedup=speedup, bounds=bounds, score=score)


def make_timing(*widths: float, spread: float = 1.0) -> Timing:
    """Variants whose speedup of 2 has bounds of these widths."""
    engines = [EngineSpeed(speedup=2.0, bounds=ConfidenceBounds(2.0 - width / 2, 2.0 + width / 2)) for width in widths]
    return Timing([VariantSpeeds(Variant(i, {}), {"c0": each}, 1) for i, each in enumerate(engines)], 100.0, spread)


def test_epochs_of_a_student_that_several_variants_share_count_once() -> None:
    settings = [("v1", 8, "fp32", 9), ("v2", 8, "int8", 9), ("v3", 16, "fp32", 3), ("v4", 32, "int8", 0)]
    variants = [
        VariantResult(name, name, {"student.options.width": width, "targets.cpu.precision": kind}, "kept", "", epochs=epochs)
        for name, width, kind, epochs in settings
    ]
    assert "12 of the 27 epochs" in describe_savings(variants, 9)


def test_a_student_that_names_its_epochs_counts_with_them() -> None:
    variants = [VariantResult(f"v{e}", "", {"student.epochs": e}, "kept", "", epochs=e) for e in (3, 6)]
    assert "9 of the 9 epochs" in describe_savings(variants, 100)


def test_what_was_refused_or_failed_is_counted_with_the_first_reason() -> None:
    rows = [
        make_row("8", "kept", 5.0),
        make_row("6", "failed", 6.0),
        make_row("4", "refused", 0.0),
        make_row("2", "refused", 0.0),
    ]
    variants = [replace(each, reason=f"of {each.name}") for each in rows]
    assert describe_unfinished(variants, ruled_out={"4"}) == [
        "1 of 4 variants were not built or timed, such as width 2: of 2",
        "1 of 4 variants were not trained or measured to the end, such as width 6: of 6",
    ]
    assert describe_unfinished(variants[:1], ruled_out=()) == []


@pytest.mark.parametrize(
    ("timing", "told"),
    [
        (make_timing(0.1, 0.2, 1.6), None),  # one engine of three may be uncertain
        (make_timing(0.2, 1.0, 1.0), "half of the speedups are uncertain by 25% or more"),
        (make_timing(0.1, spread=1.5), "took 1.5 times as long beside some variants"),
        (Timing([], None), None),
    ],
)
def test_a_machine_that_was_busy_is_told_with_what_to_do(timing: Timing, told: str | None) -> None:
    notes = describe_busy_machine(timing, SEARCH)
    if told is None:
        assert notes == []
    else:
        assert told in notes[0]
        assert "--set targets.cpu.repeats=400" in notes[0]


def test_where_no_speed_decides_a_busy_machine_does_not_matter() -> None:
    space = SPACE.model_copy(update={"objective": "size"})
    assert describe_busy_machine(make_timing(2.0), replace(SEARCH, space=space))
    free = replace(SEARCH, space=space, overrides=("gates={score_drop=0.1}",))
    assert describe_busy_machine(make_timing(2.0), free) == []


def test_what_may_be_as_fast_as_the_winner_is_named_with_the_bounds() -> None:
    winner = make_row("8", "kept", 10.0)
    rest = [make_row("6", "broke", 10.5), make_row("12", "cannot win", 9.0), make_row("16", "cannot win", 8.1)]
    told = "As fast as the winner, speedup 10 (9 to 11), within bounds: width 12, speedup 9 (8.1 to 9.9)."
    assert describe_ties([winner, *rest], winner, "speedup") == [told]
    assert describe_ties([winner, rest[0]], winner, "speedup") == []
    many = [make_row(str(width), "cannot win", 9.5) for width in range(20, 25)]
    (note,) = describe_ties([winner, *many], winner, "speedup")
    assert (note.count("width"), note.endswith("; and 2 more.")) == (3, True)
    assert describe_ties([winner, *rest], winner, "size") == describe_ties([], None, "speedup") == []


def test_what_more_score_or_speed_would_cost_is_told_of_the_nearest() -> None:
    winner = make_row("8", "kept", 10.0, 0.90)
    others = [make_row("6", "broke", 12.0, 0.88), make_row("12", "kept", 5.0, 0.92), make_row("16", "kept", 4.0, 0.91)]
    assert describe_prices([winner, *others], winner) == [
        "width 12: 0.0200 of score, at 0.5 times the winner's speed.",
        "width 6: \N{MINUS SIGN}0.0200 of score, at 1.2 times the winner's speed.",
    ]
    assert describe_prices(others, None) == describe_prices([winner], replace(winner, score=None)) == []
