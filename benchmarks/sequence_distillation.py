"""What each way to distil sequences is worth: word by word, the teacher's sentences, both, neither.

``python -m benchmarks.sequence_distillation --store DIR --seeds 0 1 2`` trains the student of
``translate-small`` in every row with every seed, after the teacher and its answers, and measures
all on the test split. Finished trainings are artifacts of the store, so an interrupted run goes on,
and the recipe's own student is one of them. Hours of one core. ``--set`` changes the recipe for all
rows: ``--set 'teacher.weights="FILE"' --set teacher.options.longest=64`` takes the teacher of
``translate``, whose longer training ends in ``weights.safetensors``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomlkit

from attar.models.task import load_task
from attar.pipeline.run import Record
from attar.recipes.workspace import open_workspace
from attar.stages.artifacts import Answers, Model, Weights
from attar.stages.measure.bench import Bench
from attar.stages.measure.teacher_path import TeacherPath
from attar.stages.slots import SLOTS

WORD, SEQUENCE = {"kind": "word"}, {"kind": "sequence"}
CONTROL = "neither (the control)"
ROWS: Mapping[str, Sequence[Mapping[str, object]]] = {
    CONTROL: (),
    "word": (WORD,),
    "sequence": (SEQUENCE,),
    "word + sequence": (WORD, SEQUENCE | {"weight": 0.5}),
}
"""The losses of each row; all share ``lambda_kd`` with the recipe."""
BATCH = 64


@dataclass(frozen=True)
class StudentQuality:
    """One student on the test split."""

    score: float
    correlation: float
    agreement: float


@dataclass(frozen=True)
class TrainedStudent:
    """A student, and what it learned from."""

    student: Model
    teacher: Model
    answers: Answers
    seconds: float
    """Of the student's training."""


def make_row(recipe: str, store: Path, given: Sequence[str], row: str, seed: int) -> TrainedStudent:
    """Return the student of a row. ``given`` are settings of the recipe that all rows have."""
    losses = ROWS[row]
    overrides = [*given, f"student.seed={seed}", f"control.seed={seed}"]
    if losses:
        overrides.append(f"student.losses={write_losses(losses)}")
    else:
        overrides.append("control.enabled=true")
    return make_student(recipe, store, overrides, "student" if losses else "control")


def write_losses(losses: Sequence[Mapping[str, object]]) -> str:
    """Return the losses as a value of TOML."""
    array = tomlkit.array()
    for loss in losses:
        table = tomlkit.inline_table()
        table.update(loss)
        array.append(table)
    return array.as_string()


def make_student(recipe: str, store: Path, overrides: Sequence[str], slot: str) -> TrainedStudent:
    """Return what a slot of the recipe makes with these settings. What the store has is reused."""
    workspace = open_workspace(recipe, SLOTS, store, overrides)
    pipeline = workspace.recipe.pipeline
    records: dict[str, Record] = {}
    for record in workspace.run.walk(pipeline.up_to({slot, "answers"})):
        if record.error:
            raise SystemExit(record.error)
        records[record.slot] = record
    student, teacher = (open_weights(records[name]) for name in (slot, "teacher"))
    answers = records["answers"]
    found = Answers(str(answers.key), "", require_path(answers), answers.facts)
    return TrainedStudent(student, teacher, found, records[slot].seconds)


def open_weights(record: Record) -> Weights:
    return Weights(str(record.key), "", require_path(record), record.facts)


def require_path(record: Record) -> Path:
    if record.path is None:
        raise SystemExit(f"{record.slot} was not made")
    return record.path


def measure_student(bench: Bench, student: Model, answers: Answers) -> StudentQuality:
    teacher = bench.score_teacher(answers)
    hops = bench.comparer.build_hops(
        {"teacher": teacher, "student": bench.score_model("student", student)}
    )
    values = [hops["student"].get_value("teacher", name) for name in ("correlation", "agreement")]
    return StudentQuality(hops["student"].get_score() or 0.0, *(value or 0.0 for value in values))


def open_bench(teacher: Model, answers: Answers) -> Bench:
    task = teacher.load_task()
    path = TeacherPath.read(task, answers, "test")
    return Bench(load_task(teacher.facts["task"]), task.split("test"), BATCH, "test", path)


def format_spread(values: Sequence[float], places: int) -> str:
    """Return the mean, and the standard deviation of several."""
    mean = f"{statistics.mean(values):.{places}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{places}f}"


def format_row(
    row: str, found: Sequence[StudentQuality], seconds: Sequence[float], places: int = 2
) -> str:
    """Return a row of the table; ``places`` are the score's."""
    columns = [
        format_spread([each.score for each in found], places),
        format_spread([each.correlation for each in found], 3),
        format_spread([each.agreement for each in found], 3),
        f"{statistics.mean(seconds) / 60:.1f}",
    ]
    return f"| {row} | {len(found)} | {' | '.join(columns)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="translate-small")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--set", action="append", default=[], metavar="SLOT.FIELD=VALUE")
    arguments = parser.parse_args()
    found: dict[str, list[StudentQuality]] = {row: [] for row in arguments.rows}
    seconds: dict[str, list[float]] = {row: [] for row in arguments.rows}
    for seed in arguments.seeds:
        for row in arguments.rows:
            made = make_row(arguments.recipe, arguments.store, arguments.set, row, seed)
            bench = open_bench(made.teacher, made.answers)
            found[row].append(measure_student(bench, made.student, made.answers))
            seconds[row].append(made.seconds)
            print(f"{row}, seed {seed}: {found[row][-1]}, {made.seconds:.0f} s", flush=True)
    oacc = bench.score_teacher(made.answers)
    score = bench.task.aggregate(oacc.statistics)
    print(f"\n{platform.machine()}, {datetime.now(UTC):%d %B %Y}; the teacher has {score:.2f}\n")
    print("| losses | seeds | BLEU | CORR | agreement | minutes |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in arguments.rows:
        print(format_row(row, found[row], seconds[row]))


if __name__ == "__main__":
    main()
