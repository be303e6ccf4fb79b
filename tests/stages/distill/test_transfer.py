"""Transfer: samples without labels teach a student what its teacher says of them, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from attar.models.epoch import Epoch, Source
from attar.models.task import Arrays, Output, Split, SplitName, Tensor
from attar.models.tasks.digits import Digits
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.artifacts import Answers
from attar.stages.distill.loss_settings import Dkd, Kd, Mse
from attar.stages.distill.objective import DistillationObjective
from attar.stages.distill.stage import Control, Distill
from attar.stages.label.stage import Label
from attar.stages.learning.losses import cross_entropy, dkd, kd, mse
from tests.support.stages.training import make_out, measure_loss
from tests.support.tasks.ring_task import hide_labels
from tests.support.tasks.smoke import NOBODY, RESIDUAL, artifact, digits_weights

LABELLED = 200
STUDENT: dict[str, Any] = {
    "network": RESIDUAL,
    "options": {"width": 4},
    "epochs": 1,
    "task": "tests.stages.distill.test_transfer:PartlyLabelledDigits",
}


class PartlyLabelledDigits(Digits):
    """Digits of which only some have labels."""

    transfer = True

    def split(self, name: SplitName) -> Split:
        if name not in ("train", "transfer"):
            return super().split(name)
        return hide_labels(super().split("train"), LABELLED, name)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("transfer")
    teacher, out = digits_weights(folder / "teacher"), make_out(folder)
    return artifact(Answers, out, Label(task=STUDENT["task"], views=1).run(out, teacher=teacher))


def mixed(task: PartlyLabelledDigits) -> ViewBatch:
    """The first batch of an epoch, with samples of both."""
    epoch = Epoch(Source(task, task.split("train"), task.split("transfer")), 64, 0).iterate_view(0)
    return next(seen for seen in epoch if 0 < seen.labelled < 64)


def test_the_teacher_answers_both(answers: Answers) -> None:
    assert answers.facts["samples"] == {"train": 200, "validation": 300, "test": 300, "transfer": 997}
    rows = answers.open_learned_rows(0)["logits"]
    assert len(rows) == 1197
    assert rows[np.array([205])].tobytes() == answers.open_rows("transfer", 0)["logits"][np.array([5])].tobytes()


def test_each_loss_reads_the_samples_that_it_can(answers: Answers) -> None:
    task = PartlyLabelledDigits()
    seen = mixed(task)
    student = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    teacher = torch.from_numpy(answers.open_learned_rows(0)["logits"][seen.indices])
    labels, count = torch.from_numpy(np.asarray(seen.targets["label"], np.int64)), seen.labelled
    learned = kd(student, teacher, 4.0) + dkd(student[:count], teacher[:count], labels, 1.0, 8.0, 4.0)
    expected = 0.9 * learned + 0.1 * cross_entropy(student[:count], labels)
    got = measure_loss(DistillationObjective(0.9, (Kd(), Dkd()), answers), task, {"logits": student}, seen, 0)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_without_any_label(answers: Answers) -> None:
    task = PartlyLabelledDigits()
    seen = mixed(task)
    seen = seen.take(np.arange(seen.labelled, 64))
    assert seen.labelled == 0
    student = torch.randn(len(seen.indices), 10, generator=torch.Generator().manual_seed(0))
    teacher = torch.from_numpy(answers.open_learned_rows(0)["logits"][seen.indices])
    got = measure_loss(DistillationObjective(0.9, (Kd(), Dkd()), answers), task, {"logits": student}, seen, 0)
    assert got.item() == pytest.approx(0.9 * kd(student, teacher, 4.0).item(), rel=1e-5)


def steps(stage: Distill | Control, out: Path, **inputs: Any) -> int:
    done: list[int] = []
    with listen_to_progress(lambda what, at, total, note: done.append(at)):
        stage.run(out, **inputs)
    return max(done)


def test_a_student_reads_both_and_its_control_what_has_labels(tmp_path: Path, answers: Answers) -> None:
    both = {"teacher": NOBODY, "answers": answers}
    assert steps(Distill(**STUDENT, batch=64), make_out(tmp_path, "student"), **both) == 1197 // 64
    assert steps(Distill(**STUDENT, batch=64, lambda_kd=0), make_out(tmp_path, "alone"), **both) == 200 // 64
    assert steps(Control(**STUDENT, batch=64, enabled=True, views=1), make_out(tmp_path, "control")) == 200 // 64


def test_the_distiller_learns_from_what_has_labels(tmp_path: Path, answers: Answers) -> None:
    history = Distill(**STUDENT, distiller={}).run(make_out(tmp_path), teacher=NOBODY, answers=answers)["history"]
    assert 0 <= history[0]["distiller_score"] <= 1


def make_plain() -> nn.Module:
    """Return a network without batch statistics."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def test_the_parts_of_a_step_weigh_all_labels_alike(tmp_path: Path, answers: Answers) -> None:
    """However many labels each has, and where one has none: the same curve but for rounding."""
    given = {
        **STUDENT,
        "network": f"{__name__}:make_plain",
        "options": {},
        "batch": 64,
        "losses": (Kd(), Dkd()),
        "lambda_kd": 0.5,
    }
    curves = []
    for accumulate in (1, 16):
        stage = Distill(**given, accumulate=accumulate)
        facts = stage.run(make_out(tmp_path, str(accumulate)), teacher=NOBODY, answers=answers)
        curves.append([each["loss"] for each in facts["history"]])
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_transfer_needs_a_loss_that_needs_no_labels(tmp_path: Path, answers: Answers) -> None:
    with pytest.raises(StageError, match=r"dkd .*PartlyLabelledDigits .*transfer"):
        Distill(**STUDENT, losses=(Dkd(),)).run(make_out(tmp_path), teacher=NOBODY, answers=answers)


def test_answers_from_before_there_was_a_transfer_split(tmp_path: Path, answers: Answers) -> None:
    before = Answers("", "", answers.root, {**answers.facts, "samples": {"train": 200}})
    said = r"are for 200 samples of train and .* has 200 samples of train and 997 samples of transfer and .* label again"
    with pytest.raises(StageError, match=said):
        Distill(**STUDENT).run(make_out(tmp_path), teacher=NOBODY, answers=before)


class LengthDigits(Digits):
    """What a network says at each position; chunks are padded to lengths of their own."""

    inputs = {"x": Tensor("float32", ("batch", "length"))}
    outputs = {"logits": Output(("batch", "length", 3)), "size": Output(("batch", "length"), kind="values")}
    ranges = {"batch": (1, 8), "length": (1, 4)}


class RaggedAnswers:
    """Stands for the answers to two samples, of lengths 1 and 2."""

    facts = {"views": 1, "samples": {"train": 2}, "outputs": ["logits", "size"]}
    features: ClassVar[dict[str, int]] = {}
    given = {"logits": np.arange(12, dtype=np.float32).reshape(2, 2, 3) ** 2 % 7, "size": np.ones((2, 2), np.float32)}

    def open_learned_rows(self, view: int) -> Arrays:
        for array in self.given.values():
            array[0, 1] = np.nan
        return self.given


def test_what_was_padded_is_learned_by_no_loss() -> None:
    """The student reads both samples padded to length 3; the teacher answered one position of the first, two of the second."""
    student = {"logits": torch.randn(2, 3, 3), "size": torch.randn(2, 3)}
    seen = ViewBatch(np.array([0, 1]), {}, {})
    answered: Any = RaggedAnswers()
    got = measure_loss(DistillationObjective(1.0, (Kd(), Mse(output="size")), answered), LengthDigits(), student, seen, 0)
    teacher = {name: torch.from_numpy(array) for name, array in answered.open_learned_rows(0).items()}
    rows = {name: torch.stack([made[0, 0], made[1, 0], made[1, 1]]) for name, made in student.items()}
    answers = {name: torch.stack([made[0, 0], made[1, 0], made[1, 1]]) for name, made in teacher.items()}
    expected = kd(rows["logits"], answers["logits"], 4.0) + mse(rows["size"], answers["size"])
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
