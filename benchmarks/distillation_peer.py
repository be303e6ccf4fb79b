"""attar beside torchdistill: the same teacher, student, data, loss and epochs, on one thread.

``python -m benchmarks.distillation_peer`` trains the student of ``benchmarks.distillation --task
fashion`` by both with each seed, in turn, in float32, and by attar in the precision that it
chooses. torchdistill lives in an environment of its own and asks the teacher for every batch; attar
asks it once, for recorded views, and the seconds of that stand beside. Both augment, prepare and
validate with the task's own code. Seconds are CPU time and include the validation of an epoch.
Finished trainings are kept in ``--work``. About 20 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from attar.models import views
from attar.models.task import Array, load_task
from attar.pipeline.core.progress import listen_to_epochs
from attar.proof.estimates.metrics import compare_outputs
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.stage import Distill
from benchmarks.distillation_rows import FIELDS
from benchmarks.distillation_workbench import Workbench
from benchmarks.peers.environments import (
    Environment,
    list_variables,
    pin_version,
    prepare_python,
    read_versions,
)

TORCHDISTILL = Environment(
    "torchdistill",
    (
        "torchdistill==1.1.5",
        pin_version("torch"),
        pin_version("numpy"),
        pin_version("pydantic"),
        pin_version("safetensors"),
    ),
)
PEER = Path(__file__).parent / "peers" / "train_torchdistill.py"
KD = {"kind": "kd", "temperature": 2.0}
LAMBDA_KD = 0.9
ROWS: Mapping[str, str | None] = {
    "attar, fp32": "fp32",
    "attar, its own precision": "auto",
    "torchdistill, fp32": None,
}
"""The precision of attar's trainings; None is the peer's."""


@dataclass(frozen=True)
class TrainingOutcome:
    """What one training took and gave."""

    seconds: Sequence[float]
    """Of each epoch."""
    accuracy: float
    correlation: float


def measure_student(bench: Workbench, answers: Answers, logits: Array) -> tuple[float, float]:
    """Return accuracy and CORR on the test split. ``logits``: (samples, classes)."""
    task = load_task(bench.field.task)
    labels = [seen.targets["label"] for seen in views.iterate_clean(task, task.split("test"))]
    score = task.aggregate(task.score({"logits": logits}, {"label": np.concatenate(labels)}))
    found = compare_outputs("logits", answers.read_split("test")["logits"], logits).numbers
    return score, float(found["correlation"] or 0)


def train_attar(bench: Workbench, precision: str, seed: int) -> tuple[list[float], Array]:
    """Return the seconds of each epoch, and the student's logits of the test split."""
    teacher, answers = bench.make_teacher()
    wanted = {"seed": seed, "precision": precision, "losses": [KD], "lambda_kd": LAMBDA_KD}
    stage = Distill(**bench.merge_settings(bench.field.student), **wanted)
    ends = [time.process_time()]
    with listen_to_epochs(lambda *_: ends.append(time.process_time())):
        out, facts = bench.run_stage(
            f"attar-{precision}/{seed}", stage, teacher=teacher, answers=answers
        )
    note = out.parent / "epochs.json"
    if not note.exists():
        note.write_text(json.dumps(np.diff(ends).tolist()))
    task = load_task(bench.field.task)
    with Weights("", "", out, facts).open() as predict:
        seen = views.iterate_clean(task, task.split("test"))
        logits = np.concatenate([predict(each.inputs)["logits"] for each in seen])
    return json.loads(note.read_text()), logits


def train_peer(bench: Workbench, cache: Path, seed: int) -> tuple[list[float], Array]:
    """Train as ``train_attar`` does, by torchdistill."""
    out = (bench.work / "torchdistill" / str(seed)).resolve()
    if not (out / "epochs.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        order = out / "order.json"
        order.write_text(json.dumps(describe_order(bench, seed)))
        command = [str(prepare_python(TORCHDISTILL, cache)), str(PEER), str(order), str(out)]
        path = str(Path(__file__).parents[1])
        subprocess.run(command, check=True, env=list_variables(path), stdout=subprocess.DEVNULL)
    epochs = json.loads((out / "epochs.json").read_text())
    return [seconds for seconds, _ in epochs], np.load(out / "logits.npy")


def describe_order(bench: Workbench, seed: int) -> dict[str, Any]:
    """Return the settings of the training as the peer reads them: those of attar's ``Distill``."""
    stage = Distill(**bench.merge_settings(bench.field.student), seed=seed)
    shared = {"epochs", "batch", "learning_rate", "weight_decay", "seed", "task"}
    return stage.model_dump(include=shared) | {
        "teacher": bench.field.teacher["options"],
        "student": bench.field.student["options"],
        "weights": str((bench.make_teacher()[0].root / "weights.safetensors").resolve()),
        "temperature": KD["temperature"],
        "lambda_kd": LAMBDA_KD,
    }


def train_row(bench: Workbench, cache: Path, row: str, seed: int) -> TrainingOutcome:
    precision = ROWS[row]
    if precision is None:
        seconds, logits = train_peer(bench, cache, seed)
    else:
        seconds, logits = train_attar(bench, precision, seed)
    return TrainingOutcome(seconds, *measure_student(bench, bench.make_teacher()[1], logits))


def format_row(row: str, trainings: Sequence[TrainingOutcome], labelling: float) -> str:
    """Return a row of the table; ``labelling``: seconds of CPU time that come before the first
    student."""
    accuracy, correlation = (
        statistics.mean(getattr(training, name) for training in trainings)
        for name in ("accuracy", "correlation")
    )
    first, last = (
        statistics.median(training.seconds[place] for training in trainings) for place in (0, -1)
    )
    total = statistics.median(sum(training.seconds) for training in trainings)
    once = 0.0 if ROWS[row] is None else labelling
    return (
        f"| {row} | {accuracy:.4f} | {correlation:.4f} | {once:.0f} | {first:.1f} | {last:.1f} | "
        f"{once + total:.0f} | {total:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks/distillation-peer"))
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks/environments"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    field = FIELDS["fashion"]
    field = replace(field, student={**field.student, "epochs": given.epochs})
    bench = Workbench("fashion", field, given.work, "cpu")
    labelling = bench.make_teacher()[1].facts["seconds_an_epoch"]
    found: dict[str, list[TrainingOutcome]] = {row: [] for row in ROWS}
    for seed in given.seeds:
        for row in ROWS:
            found[row].append(train_row(bench, given.environments, row, seed))
            print(f"{row}, seed {seed}: {found[row][-1]}", flush=True)
    print(f"\n{platform.machine()}, {datetime.now(UTC):%d %B %Y}, {len(given.seeds)} seeds")
    print(f"{read_versions(TORCHDISTILL, given.environments)}\n")
    print(
        "| trained by | accuracy | CORR | answers, s | first epoch, s | last epoch, s | "
        "first student, s | next student, s |\n" + "| --- " * 8 + "|"
    )
    for row, trainings in found.items():
        print(format_row(row, trainings, labelling))


if __name__ == "__main__":
    main()
