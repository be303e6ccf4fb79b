"""What each way to distil is worth: one teacher, one student, paired seeds, the same steps and
schedule for every row.

``python -m benchmarks.distillation`` prints a table for digits in two minutes, of which 300 test
images tell little; ``--task fashion`` takes two and a half hours of one core. ``--task noisy`` is
Fashion-MNIST with 30 % of its training labels wrong, for rows that are named. Every finished
training is kept in ``--work``, so an interrupted run goes on; empty it to measure anew.
``--epochs`` trains students for longer or shorter, beside the same teacher. ``--train`` trains what
the table needs and prints nothing: several of those share the work, one thread each, as in
``OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.distillation --train &``. Seconds are CPU
time. What is best is chosen on validation, trained again with seeds that no row had, and tested
once.

``--rows DKD DIST --seeds 0 1 2`` is these rows alone, beside the control: nothing is chosen,
nothing is drawn.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from scipy.stats import t as student_t

from attar.stages.artifacts import Answers, Weights
from benchmarks.distillation_figure import draw_figure
from benchmarks.distillation_rows import (
    CONTROL,
    FIELDS,
    FRESH,
    MATCHED,
    SMOOTHED,
    ControlRow,
    Part,
    list_all_rows,
    list_rows,
    select_part,
)
from benchmarks.distillation_workbench import Columns, Workbench

LEAST = 0.985
"""The CORR on validation that a row needs to be chosen."""


def train_missing(bench: Workbench, part: Part) -> None:
    """Train every student of the table that no other process is at; those of one seed before those
    of the next."""
    if SMOOTHED in part.rows and bench.is_busy("teacher"):
        bench.make_teacher("smoothed-", 0.1)
    jobs = [(name, seed) for seed in part.seeds for name in part.rows]
    jobs += [(CONTROL, seed) for seed in FRESH if part.whole]
    for name, seed in jobs:
        if not bench.is_busy(bench.name_folder(name, seed)):
            bench.make_student(name, part.rows[name], seed, bench.choose_teacher(name))


def estimate_difference(values: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the paired differences and half of its two-sided 90 % t interval: each end
    is a one-sided 95 % bound."""
    apart = [a - b for a, b in zip(values, base, strict=True)]
    half = float(student_t.ppf(0.95, len(apart) - 1)) * statistics.stdev(apart) / len(apart) ** 0.5
    return statistics.mean(apart), half


def format_row(
    name: str, columns: Columns, base: Columns | None, students: Sequence[Weights]
) -> str:
    """Return a row of the table: means and, against the control of the same seeds, paired
    differences."""
    cells = []
    for metric, values in columns.items():
        beside = (
            ""
            if base is None
            else " ({:+.4f} ± {:.4f})".format(*estimate_difference(values, base[metric]))
        )
        cells.append(f"{statistics.mean(values):.4f}{beside}")
    seconds = statistics.median(student.facts["seconds_an_epoch"] for student in students)
    validation = statistics.mean(student.facts["score"] for student in students)
    return f"| {name} | {' | '.join(cells)} | {validation:.4f} | {seconds:.2f} |"


def choose_best(trained: Mapping[str, Sequence[Weights]]) -> str:
    """Choose by validation alone: the highest mean score among the rows whose mean CORR is at least
    LEAST; else the highest CORR."""

    def average_fact(name: str, fact: str) -> float:
        return float(statistics.mean(student.facts[fact] for student in trained[name]))

    able = [name for name in trained if average_fact(name, "correlation") >= LEAST]
    return (
        max(able, key=lambda name: average_fact(name, "score"))
        if able
        else max(trained, key=lambda name: average_fact(name, "correlation"))
    )


def print_head(bench: Workbench, answers: Answers, seeds: Sequence[int]) -> None:
    today = f"{datetime.datetime.now(datetime.UTC):%d %B %Y}"
    print(
        f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{today}"
    )
    print(
        f"seeds {', '.join(map(str, seeds))}; the teacher scores "
        f"{bench.score_teacher(answers):.4f} on test"
    )
    print(
        "\n| row | accuracy | CORR | KDL | agreement | validation | s an epoch |\n| --- | --- | "
        "--- | --- | --- | --- | --- |"
    )


def compare_rows(
    bench: Workbench, part: Part
) -> tuple[dict[str, Columns], dict[str, Sequence[Weights]]]:
    """Train and print every row. Return what each measures on test, and the students of those of
    which one is chosen."""
    trained: dict[str, Sequence[Weights]] = {}
    found: dict[str, Columns] = {}
    for name, chosen in part.rows.items():
        teacher = bench.choose_teacher(name)
        students = bench.make_students(name, chosen, part.seeds, teacher)
        found[name] = bench.measure_students(students, teacher[1])
        print(
            format_row(name, found[name], None if name == CONTROL else found[CONTROL], students),
            flush=True,
        )
        if not isinstance(chosen, ControlRow) and name not in (SMOOTHED, MATCHED):
            trained[name] = students
    return found, trained


def confirm_choice(bench: Workbench, name: str, taught: tuple[Weights, Answers]) -> None:
    """Train the chosen row and the control with fresh seeds, test both once, and print them."""
    base = bench.make_students(CONTROL, list_rows(bench.field)[CONTROL], FRESH, taught)
    students = bench.make_students(name, list_rows(bench.field)[name], FRESH, taught)
    beside = bench.measure_students(base, taught[1])
    print(f"\nChosen on validation: {name}. Fresh seeds {FRESH[0]} to {FRESH[-1]}, tested once:\n")
    print(format_row(CONTROL, beside, None, base))
    print(format_row(name, bench.measure_students(students, taught[1]), beside, students))


def draw_gains(file: Path, found: Mapping[str, Columns], task: str) -> None:
    base = found[CONTROL]
    points = {
        row: [estimate_difference(columns[metric], base[metric]) for metric in ("accuracy", "CORR")]
        for row, columns in found.items()
        if row != CONTROL
    }
    draw_figure(file, points, task)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=FIELDS, default="digits")
    parser.add_argument("--work", type=Path, help="where finished trainings are kept")
    parser.add_argument("--epochs", type=int, help="of each student, instead of the task's own")
    parser.add_argument("--figure", type=Path, help="where to draw accuracy against CORR, as SVG")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--train",
        action="store_true",
        help="train what is missing and no other process is at; print nothing",
    )
    names = list(list_all_rows(FIELDS["digits"]))
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=names,
        metavar="ROW",
        help=f"these alone, of: {'; '.join(names)}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="instead of 0 to 4")
    given = parser.parse_args()
    partial = given.rows is not None or given.seeds is not None
    if given.figure and partial:
        parser.error("--figure shows the whole table: leave out --rows and --seeds")
    if not given.train and given.seeds is not None and len(set(given.seeds)) < 2:
        parser.error(
            "--seeds needs two different seeds, or more: of one difference there is no interval"
        )
    return given


def main() -> None:
    given = read_arguments()
    field = FIELDS[given.task]
    if given.epochs is not None:
        field = replace(field, student={**field.student, "epochs": given.epochs})
    bench = Workbench(
        given.task,
        field,
        given.work or Path(".benchmarks") / f"distillation-{given.task}",
        given.device,
    )
    part = select_part(bench.field, given.rows, given.seeds)
    if given.train:
        train_missing(bench, part)
        return
    taught = bench.make_teacher()
    print_head(bench, taught[1], part.seeds)
    found, trained = compare_rows(bench, part)
    if given.figure:
        draw_gains(given.figure, found, given.task)
    if part.whole:
        confirm_choice(bench, choose_best(trained), taught)


if __name__ == "__main__":
    main()
