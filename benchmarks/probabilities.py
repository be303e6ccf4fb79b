"""A teacher that ends in a softmax: what the same student learns when its answers are taken for
logits, and for what they are.

``python -m benchmarks.probabilities`` takes minutes on one core. The teacher of ``attar run
digits`` is exported, given a softmax and adopted as an ONNX file; the student, its training and its
seeds are the recipe's. All students are compared on the test split with the logarithms of the
teacher's answers, which are its logits but for a constant.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import onnx
import torch

from attar.engines.graphs.softmax import append_softmax
from attar.models import views
from attar.models.probabilities import to_logits
from attar.models.task import Output, load_task
from attar.models.tasks.digits import Digits
from attar.proof.estimates.metrics import compare_outputs
from attar.stages.artifacts import Answers, OnnxModel, Weights
from attar.stages.distill.loss_settings import Kd
from attar.stages.distill.stage import Distill
from attar.stages.export.stage import Export
from attar.stages.label.stage import Label
from attar.stages.teach.stage import Teach
from benchmarks.measuring import make_artifact

LOGITS = "attar.models.tasks.digits:Digits"
PROBABILITIES = "benchmarks.probabilities:LikelyDigits"
RESIDUAL = "attar.models.networks.residual:residual"
TEACHER: dict[str, Any] = {
    "network": RESIDUAL,
    "options": {"width": 16},
    "epochs": 12,
    "batch": 64,
    "learning_rate": 0.01,
}
STUDENT: dict[str, Any] = {
    "network": RESIDUAL,
    "options": {"width": 5},
    "epochs": 30,
    "batch": 64,
    "learning_rate": 0.02,
}
SEEDS = (0, 1, 2)
SHARES = (0.9, 1.0)
"""Of L_KD: with the labels' share, as the recipe has it, and from the teacher alone."""
Numbers = npt.NDArray[np.float32]


class LikelyDigits(Digits):
    """Digits, by a teacher that answers probabilities."""

    outputs = {"logits": Output(("batch", 10), kind="probabilities", target="label")}


@contextmanager
def skip_checks() -> Iterator[None]:
    """Skip the checks, as before there were any: whatever is declared is believed."""
    with (
        patch("attar.stages.teach.onnx_teacher.KindCheck"),
        patch("attar.stages.label.shards.KindCheck"),
    ):
        yield


def make_teachers(folder: Path) -> tuple[Path, Path]:
    """Return the same trained network as two ONNX files: as it was exported, and with a softmax at
    its end."""
    trained = make_artifact(Weights, folder / "trained", Teach(task=LOGITS, **TEACHER))
    plain = make_artifact(OnnxModel, folder / "exported", Export(), weights=trained).file()
    model = onnx.load(plain)
    append_softmax(model, ["logits"])
    onnx.save(model, folder / "softmax.onnx")
    return plain, folder / "softmax.onnx"


def make_answers(folder: Path, task: str, file: Path) -> Answers:
    teacher = make_artifact(OnnxModel, folder / "teacher", Teach(task=task, onnx=file))
    return make_artifact(Answers, folder / "answers", Label(task=task, views=4), teacher=teacher)


def ask_student(student: Weights) -> Numbers:
    """Return the student's logits for the test split; of probabilities the logarithms."""
    task = student.load_task()
    with student.open(threads=1) as predict:
        parts = [
            predict(seen.inputs)["logits"] for seen in views.iterate_clean(task, task.split("test"))
        ]
    return np.asarray(to_logits(task.outputs["logits"].kind, np.concatenate(parts)), np.float32)


def measure_student(
    folder: Path, task: str, answers: Answers, expected: Numbers, share: float, seed: int
) -> dict[str, float]:
    stage = Distill(task=task, seed=seed, lambda_kd=share, losses=(Kd(temperature=4.0),), **STUDENT)
    student = make_artifact(
        Weights, folder, stage, teacher=Weights("", "", folder, {}), answers=answers
    )
    labels = load_task(task).split("test").take(np.arange(len(expected))).targets["label"]
    got = ask_student(student)
    numbers = compare_outputs("logits", expected, got).numbers
    found = {name: float(numbers[name] or 0) for name in ("correlation", "agreement", "kdl")}
    return {
        "loss": student.facts["history"][-1]["loss"],
        "accuracy": float((got.argmax(1) == labels).mean()),
        **found,
    }


def main() -> None:
    torch.set_num_threads(1)
    now = datetime.now(UTC).strftime("%d %B %Y")
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, "
        f"{now}; mean of seeds {SEEDS}\n"
    )
    print(
        "| teacher | declared as | share of L_KD | last loss | accuracy | CORR | agreement | KDL |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, ended = make_teachers(folder)
        answers = {
            ("logits", "logits"): make_answers(folder / "plain", LOGITS, plain),
            ("a softmax", "probabilities"): make_answers(folder / "right", PROBABILITIES, ended),
        }
        with skip_checks():
            answers["a softmax", "logits"] = make_answers(folder / "wrong", LOGITS, ended)
        expected = np.asarray(
            answers["a softmax", "probabilities"].read_split("test")["logits"], np.float32
        )
        for (end, declared), stored in answers.items():
            task = PROBABILITIES if declared == "probabilities" else LOGITS
            for share in SHARES:
                at = folder / f"{end} {declared} {share}"
                rows = [
                    measure_student(at / str(seed), task, stored, expected, share, seed)
                    for seed in SEEDS
                ]
                shown = [f"{statistics.mean(row[key] for row in rows):.4f}" for key in rows[0]]
                print(
                    f"| ends in {end} | {declared} | {share:g} | {' | '.join(shown)} |", flush=True
                )


if __name__ == "__main__":
    main()
