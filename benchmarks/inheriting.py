"""What a student gains that begins with its teacher's weights, cut to its shape.

``python -m benchmarks.inheriting --case topics --store DIR --seeds 0 1 2`` trains one shape from
the teacher's weights and from nothing, each for a quarter of the epochs and for all, and measures
all on the test split. Of several ``--rates`` each row takes the one that is best on validation.
Finished trainings are artifacts of the store, so an interrupted run goes on; ``topics`` and
``fashion`` share teacher and answers with the recipes. Hours of one core.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.sequence_distillation import (
    StudentQuality,
    TrainedStudent,
    format_row,
    make_student,
    measure_student,
    open_bench,
)

STARTS: Mapping[str, bool] = {"from nothing": False, "from the teacher": True}
SHARES = (0.25, 1.0)
"""Of the epochs."""
MINILM = (
    'task="attar.models.tasks.topics:TopicsForMiniLM"',
    'student.network="attar.models.networks.narrowed:minilm_classifier"',
    "student.weight_decay=0.01",
    "control.enabled=false",
)


@dataclass(frozen=True)
class InheritingRecipe:
    """A recipe whose student has a shape that its teacher can be cut to."""

    recipe: str
    shape: str
    settings: Sequence[str]
    epochs: int
    rates: Sequence[float]
    """Learning rates."""

    def list_overrides(self, start: str, share: float, rate: float, seed: int) -> list[str]:
        return [
            *self.settings,
            f"student.epochs={self.count_epochs(share)}",
            f"student.learning_rate={rate!r}",
            f"student.inherit={str(STARTS[start]).lower()}",
            f"student.seed={seed}",
        ]

    def count_epochs(self, share: float) -> int:
        return max(1, round(share * self.epochs))


CASES: Mapping[str, InheritingRecipe] = {
    "topics": InheritingRecipe(
        "topics", "3 of MiniLM's 6 layers", (*MINILM, "student.options={layers=3}"), 4, (0.0003,)
    ),
    "topics-heads": InheritingRecipe(
        "topics",
        "half of MiniLM's heads and hidden units",
        (*MINILM, "student.options={heads=6, hidden=768}"),
        4,
        (0.0003,),
    ),
    "fashion": InheritingRecipe(
        "fashion", "width 24 of 32, one block of two", ("student.options={width=24}",), 14, (0.006,)
    ),
    "digits": InheritingRecipe(
        "digits", "width 8 of 16", ("student.options={width=8}",), 8, (0.02,)
    ),
}
"""``digits`` shows in a minute that everything works, and nothing of how well."""


@dataclass(frozen=True)
class StudentStart:
    start: str
    share: float

    def describe(self, case: InheritingRecipe) -> str:
        return f"{self.start}, {case.count_epochs(self.share)} of {case.epochs} epochs"


def list_rows(shares: Sequence[float] = SHARES) -> list[StudentStart]:
    return [StudentStart(start, share) for share, start in itertools.product(shares, STARTS)]


def make_seeds(
    case: InheritingRecipe, store: Path, row: StudentStart, rate: float, seeds: Sequence[int]
) -> list[TrainedStudent]:
    """Return the students of a row at one learning rate."""
    made = []
    for seed in seeds:
        overrides = case.list_overrides(row.start, row.share, rate, seed)
        made.append(make_student(case.recipe, store, overrides, "student"))
        score = read_validation(made[-1])
        print(
            f"{row.describe(case)}, rate {rate:g}, seed {seed}: {score:.4f} on validation, "
            f"{made[-1].seconds:.0f} s",
            flush=True,
        )
    return made


def read_validation(made: TrainedStudent) -> float:
    """Return the score on validation after the last epoch."""
    return float(made.student.facts["history"][-1]["score"])


def choose_rate(made: Mapping[float, Sequence[TrainedStudent]]) -> float:
    """Return the learning rate whose students are best on validation, on average."""
    return max(made, key=lambda rate: statistics.mean(map(read_validation, made[rate])))


def measure_made(made: TrainedStudent) -> StudentQuality:
    bench = open_bench(made.teacher, made.answers)
    return measure_student(bench, made.student, made.answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES), required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates, of each start")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=SHARES, help="of the epochs of the recipe"
    )
    arguments = parser.parse_args()
    case, lines = CASES[arguments.case], []
    for row in list_rows(arguments.shares):
        made = {
            rate: make_seeds(case, arguments.store, row, rate, arguments.seeds)
            for rate in arguments.rates or case.rates
        }
        rate = choose_rate(made)
        found = [measure_made(each) for each in made[rate]]
        seconds = [each.seconds for each in made[rate]]
        lines.append(format_row(f"{row.describe(case)}, rate {rate:g}", found, seconds, 4))
    print(f"\n{arguments.case}: {case.shape}. {platform.machine()}, {datetime.now(UTC):%d %B %Y}\n")
    print("| start | seeds | score | CORR | agreement | minutes |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
