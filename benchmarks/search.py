"""What a search finds beside a student that was chosen by hand, at equal promises.

``python -m benchmarks.search --store DIR`` runs the search of the recipe ``demo`` on Fashion-MNIST,
whose space holds the student that the recipe names, and compares the winner with it: both were
timed untrained in the same rounds. Half an hour of one core; what the store has is not made again.
"""

from __future__ import annotations

import argparse
import platform
from datetime import UTC, datetime
from pathlib import Path

from attar.pipeline.run import Record
from attar.search.recipe_search import RecipeSearch
from attar.search.result import SearchResult, VariantResult
from attar.search.run import run_search

RECIPE = "demo"
BY_HAND = {
    "student.options.width": 12,
    "student.options.blocks": 1,
    "targets.cpu.precision": "int8",
}


def find_hand_choice(result: SearchResult) -> VariantResult:
    return next(each for each in result.variants if dict(each.settings) == BY_HAND)


def show_record(record: Record) -> None:
    print(f"{record.status:<8} {record.slot:<24} {record.seconds:6.1f} s", flush=True)


def format_row(name: str, each: VariantResult) -> str:
    """Return a row of the table."""
    times = "" if each.speedup is None else f"{each.speedup:.2f}"
    size = "" if each.size_bytes is None else f"{each.size_bytes / 1000:.0f} kB"
    score = "" if each.score is None else f"{each.score:.4f}"
    return f"| {name} | {each.title} | {times} | {size} | {score} | {each.status}: {each.reason} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    arguments = parser.parse_args()
    overrides = [f"search.trials={arguments.trials}"]
    result = run_search(RecipeSearch.create(RECIPE, arguments.store, overrides), show_record)
    print(f"\n{platform.processor() or platform.machine()}, {datetime.now(UTC):%d %B %Y}\n")
    print("| | student | speedup | size | score on validation | |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(format_row("by hand", find_hand_choice(result)))
    winner = result.get_winner()
    if winner is not None:
        print(format_row("found", winner))
    print("\n" + "\n".join(result.notes))


if __name__ == "__main__":
    main()
