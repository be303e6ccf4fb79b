"""Function matching: the teacher answers the mixed inputs, the student reads the same, and labels are mixed alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.models import views
from attar.models.mixing import PARTNER, SHARE, Mixing
from attar.models.task import Output, load_task
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.loss_settings import Dkd, Kd
from attar.stages.distill.objective import DistillationObjective
from attar.stages.distill.stage import Control, Distill
from attar.stages.label.stage import Label
from attar.stages.learning.lesson import Lesson, send_lesson
from attar.stages.learning.losses import cross_entropy, kd
from attar.stages.learning.objective import mix_labels, read_target
from attar.stages.measure.stored import take_first_samples
from tests.support.stages.training import READER, SENTENCES, make_out, measure_loss
from tests.support.tasks.smoke import DIGITS, NOBODY, RESIDUAL, artifact, weights

BOTH = Mixing(("mixup", "cutmix"), 1.0)
STUDENT: dict[str, Any] = {"task": DIGITS, "network": RESIDUAL, "options": {"width": 4}, "epochs": 1, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return weights(tmp_path_factory.mktemp("teacher"), RESIDUAL, DIGITS, width=4)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, teacher: Weights) -> Answers:
    out = make_out(tmp_path_factory.mktemp("answers"))
    return artifact(Answers, out, Label(task=DIGITS, views=1, view_seed=5, mix=("mixup", "cutmix")).run(out, teacher=teacher))


@pytest.fixture(scope="module")
def seen() -> ViewBatch:
    task = load_task(DIGITS)
    return views.make_chunk(task, task.split("train"), 1, seed=5, view=0, mixing=BOTH)


def test_the_teacher_answers_the_mixed_input_itself(teacher: Weights, answers: Answers, seen: ViewBatch) -> None:
    assert answers.facts["mix"] == {"kinds": ["mixup", "cutmix"], "alpha": 1.0}
    assert answers.mixing == BOTH
    with teacher.open() as predict:
        expected = np.concatenate([predict(part.inputs)["logits"] for part in views.split_chunk(seen)])
    stored = answers.open_rows("train", 0)["logits"][seen.indices]
    np.testing.assert_array_equal(stored, expected.astype(np.float16).astype(np.float32))
    plain = take_first_samples(load_task(DIGITS), answers, "train", 0)
    assert SHARE in plain.targets  # what compares stored answers with the teacher reads the same view


def test_labels_count_in_the_shares_of_their_inputs(answers: Answers, seen: ViewBatch) -> None:
    task = load_task(DIGITS)
    student = torch.randn(len(seen.indices), 10, generator=torch.Generator().manual_seed(0))
    share = torch.from_numpy(seen.targets[SHARE])
    own, other = (torch.from_numpy(np.asarray(seen.targets[name], np.int64)) for name in ("label", "label" + PARTNER))
    logs = student.log_softmax(1)
    rows = torch.arange(len(student))
    labels = -(share * logs[rows, own] + (1 - share) * logs[rows, other]).mean()
    matched = kd(student, torch.from_numpy(answers.open_rows("train", 0)["logits"][seen.indices]), 4.0)
    objective = DistillationObjective(0.25, (Kd(),), answers)
    objective.check_task(task)
    got = measure_loss(objective, task, {"logits": student}, seen, 0)
    assert got.item() == pytest.approx((0.25 * matched + 0.75 * labels).item(), rel=1e-5)


def test_cross_entropy_of_two_labels_by_hand() -> None:
    """A quarter of class 0, whose probability is 3/4, and three quarters of class 1."""
    logits = torch.tensor([[np.log(3.0), 0.0]])
    expected = 0.25 * np.log(4 / 3) + 0.75 * np.log(4)
    assert cross_entropy(logits, torch.tensor([[0.25, 0.75]])).item() == pytest.approx(expected, rel=1e-6)


def test_targets_of_numbers_are_mixed() -> None:
    targets = {"y": np.array([[2.0], [4.0]]), "y.partner": np.array([[4.0], [2.0]]), SHARE: np.array([0.25, 1.0], np.float32)}
    output = Output(("batch", 1), "values", "y")
    mixed = mix_labels("y", output, send_lesson(Lesson({}, read_target("y", output, targets), 2), torch.device("cpu")))
    assert mixed is not None
    assert mixed.tolist() == [[3.5], [4.0]]


def test_student_and_recorded_control_read_the_same_mixed_views(tmp_path: Path, answers: Answers) -> None:
    alone, control = make_out(tmp_path, "alone"), make_out(tmp_path, "control")
    Distill(**STUDENT, lambda_kd=0).run(alone, teacher=NOBODY, answers=answers)
    Control(**STUDENT, enabled=True, recorded=True, views=1, view_seed=5, mix=("mixup", "cutmix")).run(control)
    assert (alone / "weights.safetensors").read_bytes() == (control / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(("losses", "distiller", "named"), [((Dkd(),), None, "dkd"), ((Kd(),), DistillerSettings(), "distiller")])
def test_what_compares_with_one_label_is_refused(
    answers: Answers, losses: tuple[Kd | Dkd, ...], distiller: DistillerSettings | None, named: str
) -> None:
    with pytest.raises(StageError, match=named):
        DistillationObjective(0.9, losses, answers, distiller).check_task(load_task(DIGITS))


def test_texts_are_not_mixed(tmp_path: Path) -> None:
    reader = weights(tmp_path / "teacher", READER, SENTENCES)
    with pytest.raises(StageError, match="mix"):
        Label(task=SENTENCES, views=1, mix=("mixup",)).run(make_out(tmp_path), teacher=reader)
