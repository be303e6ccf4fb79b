"""Distilling: L is what the design says, the answers are read at the right rows, an interruption changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.models import views
from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.loss_settings import Kd, Mse
from attar.stages.distill.objective import DistillationObjective
from attar.stages.distill.stage import Control, Distill
from attar.stages.label.stage import Label
from attar.stages.learning.losses import cross_entropy, kd, mse
from attar.stages.learning.objective import LabelObjective
from attar.stages.teach.stage import Teach
from tests.support.stages.training import READER, SENTENCES, InterruptError, interrupt_at, make_out, measure_loss
from tests.support.tasks.smoke import DIGITS, NOBODY, RESIDUAL, artifact, weights

STUDENT: dict[str, Any] = {"task": DIGITS, "network": RESIDUAL, "options": {"width": 4}, "epochs": 3, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Those of a teacher that has learnt something: to random answers nothing correlates."""
    folder = tmp_path_factory.mktemp("answers")
    taught, out = make_out(folder, "teacher"), make_out(folder)
    teacher = artifact(Weights, taught, Teach(**STUDENT | {"epochs": 5, "options": {"width": 8}}).run(taught))
    return artifact(Answers, out, Label(task=DIGITS, views=2, view_seed=5).run(out, teacher=teacher))


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("values")
    teacher, out = weights(folder / "teacher", READER, SENTENCES), make_out(folder)
    return artifact(Answers, out, Label(task=SENTENCES, views=2).run(out, teacher=teacher))


def distill(**settings: Any) -> Distill:
    return Distill(**{**STUDENT, **settings})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_l_is_the_weighted_sum_of_the_two_parts(answers: Answers, share: float) -> None:
    task = load_task(DIGITS)
    seen = views.make_chunk(task, task.split("train"), 1, seed=5, view=1)
    student = torch.randn(len(seen.indices), 10, generator=torch.Generator().manual_seed(0))
    teacher = torch.from_numpy(answers.open_rows("train", 1)["logits"][seen.indices].astype(np.float32))
    labels = torch.from_numpy(np.asarray(seen.targets["label"], np.int64))
    parts = 2 * kd(student, teacher, 3.0) + 0.5 * mse(student, teacher)
    expected = share * parts + (1 - share) * cross_entropy(student, labels)
    losses = (Kd(temperature=3.0, weight=2.0), Mse(weight=0.5))
    got = measure_loss(DistillationObjective(share, losses, answers), task, {"logits": student}, seen, 1)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_loss_warms_up_and_the_labels_have_a_weight(answers: Answers) -> None:
    """At 5 % of the steps a warm-up of 20 % has a quarter of the weight; 0.5 of 2 and 0.5 of 2 are 1 and 1."""
    task = load_task(DIGITS)
    seen = views.make_chunk(task, task.split("train"), 1, seed=5, view=1)
    student = torch.randn(len(seen.indices), 10, generator=torch.Generator().manual_seed(0))
    teacher = torch.from_numpy(answers.open_rows("train", 1)["logits"][seen.indices].astype(np.float32))
    labels = torch.from_numpy(np.asarray(seen.targets["label"], np.int64))
    losses, other = (Kd(temperature=3.0, weight=2.0, warmup=0.2), Mse(weight=2.0)), LabelObjective(0.1, weight=2.0)
    objective = DistillationObjective(0.5, losses, answers, other=other)
    for progress, share in ((0.0, 0.0), (0.05, 0.25), (0.2, 1.0), (0.9, 1.0)):
        objective.set_progress(progress)
        expected = share * kd(student, teacher, 3.0) + mse(student, teacher) + cross_entropy(student, labels, 0.1)
        got = measure_loss(objective, task, {"logits": student}, seen, 1)
        assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_progress_of_a_training_reaches_its_losses(tmp_path: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []

    def tell(self: DistillationObjective, progress: float) -> float:
        told.append(progress)
        return progress

    monkeypatch.setattr(DistillationObjective, "set_progress", tell)
    distill(epochs=2).run(make_out(tmp_path), teacher=NOBODY, answers=answers)
    assert told == pytest.approx([step / len(told) for step in range(len(told))])


def test_numbers_are_fitted_by_their_squared_error(values: Answers) -> None:
    task = load_task(SENTENCES)
    seen = views.make_chunk(task, task.split("train"), 0, seed=0, view=0)
    student = torch.zeros(len(seen.indices), 1)
    teacher = torch.from_numpy(values.open_rows("train", 0)["value"][seen.indices].astype(np.float32))
    target = torch.from_numpy(np.asarray(seen.targets["value"], np.float32))
    expected = 0.9 * mse(student, teacher) + 0.1 * mse(student, target)
    got = measure_loss(DistillationObjective(0.9, (Mse(),), values), task, {"value": student}, seen, 0)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_learns_the_teacher(tmp_path: Path, answers: Answers) -> None:
    facts = distill(epochs=12).run(make_out(tmp_path), teacher=NOBODY, answers=answers)
    correlations = [entry["correlation"] for entry in facts["history"]]
    assert facts["correlation"] == correlations[-1] > correlations[0]
    assert facts["correlation"] > 0.8


def test_the_recorded_correlation_is_that_of_the_weights(tmp_path: Path, answers: Answers) -> None:
    out, task = make_out(tmp_path), load_task(DIGITS)
    student = artifact(Weights, out, distill(epochs=1).run(out, teacher=NOBODY, answers=answers))
    with student.open() as predict:
        seen = views.iterate_clean(task, task.split("validation"))
        got = np.concatenate([np.asarray(predict(part.inputs)["logits"], np.float64) for part in seen])
    pair = [logits - logits.mean(1, keepdims=True) for logits in (np.asarray(answers.read_split("validation")["logits"]), got)]
    assert student.facts["correlation"] == pytest.approx(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1], abs=1e-5)


def test_an_interrupted_distillation_ends_in_the_same_bytes(tmp_path: Path, answers: Answers) -> None:
    whole, broken = make_out(tmp_path, "whole"), make_out(tmp_path, "broken")
    facts = distill().run(whole, teacher=NOBODY, answers=answers)
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(20)):
        distill().run(broken, teacher=NOBODY, answers=answers)
    assert distill().run(broken, teacher=NOBODY, answers=answers) == facts
    assert (broken / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_without_a_share_for_the_teacher_it_is_the_control(tmp_path: Path, answers: Answers) -> None:
    """Student and control run through the same loop: on the same views only the loss differs."""
    alone, control = make_out(tmp_path, "alone"), make_out(tmp_path, "control")  # the answers' views have seed 5
    Control(**STUDENT, enabled=True, recorded=True, views=2, view_seed=5).run(control)
    distill(lambda_kd=0).run(alone, teacher=NOBODY, answers=answers)
    assert (alone / "weights.safetensors").read_bytes() == (control / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_control_is_what_one_trains_who_has_no_teacher(tmp_path: Path, smoothing: float) -> None:
    """As ``teach`` trains a network: fresh views each epoch, and the labels smoothed where that is asked for."""
    control, trained = make_out(tmp_path, "control"), make_out(tmp_path, "trained")
    Control(**STUDENT, enabled=True, views=1, label_smoothing=smoothing).run(control)
    Teach(**STUDENT, label_smoothing=smoothing).run(trained)
    assert (control / "weights.safetensors").read_bytes() == (trained / "weights.safetensors").read_bytes()


def test_a_control_that_is_off_writes_nothing(tmp_path: Path) -> None:
    out = make_out(tmp_path)
    control = artifact(Weights, out, Control(**STUDENT).run(out))
    assert control.facts == {"off": True}
    assert control.is_disabled
    assert list(out.iterdir()) == []


def test_tokens_and_numbers_are_distilled_too(tmp_path: Path, values: Answers) -> None:
    stage = Distill(
        task=SENTENCES,
        network="tests.support.tasks.token_task:student",
        epochs=4,
        learning_rate=0.02,
        losses=(Mse(),),
        lambda_kd=1,
    )
    assert stage.run(make_out(tmp_path), teacher=NOBODY, answers=values)["correlation"] > 0.5


def test_a_loss_for_the_wrong_kind_of_output(tmp_path: Path, values: Answers) -> None:
    settings = {"task": SENTENCES, "network": "tests.support.tasks.token_task:student", "options": {}}
    with pytest.raises(StageError, match=r"'value' \(.*kind = 'mse'"):
        distill(**settings).run(make_out(tmp_path), teacher=NOBODY, answers=values)
    with pytest.raises(StageError, match=r"kd is for .*'value'"):
        distill(**settings, losses=(Kd(output="value"),)).run(make_out(tmp_path), teacher=NOBODY, answers=values)
    with pytest.raises(StageError, match=r"'valeu'.*'value'\?"):
        distill(**settings, losses=(Mse(output="valeu"),)).run(make_out(tmp_path), teacher=NOBODY, answers=values)


def test_answers_to_another_task(tmp_path: Path, values: Answers) -> None:
    with pytest.raises(
        StageError,
        match=r"answers are for 2048 samples of train and \['value'\], the task has 1197 samples of train and \['logits'\]",
    ):
        distill().run(make_out(tmp_path), teacher=NOBODY, answers=values)


def test_labels_need_a_target() -> None:
    task = type("NoTarget", (type(load_task(DIGITS)),), {"outputs": {}})()
    with pytest.raises(StageError, match="NoTarget has"):
        LabelObjective().check_task(task)


def test_a_control_that_is_off_depends_on_nothing_else() -> None:
    off, on = (Control(task="a:b", network="c:d", enabled=enabled) for enabled in (False, True))
    assert off.deciding() == {"enabled"}
    assert {"network", "task", "epochs", "recorded"} <= on.deciding()


def test_more_answers_do_not_train_a_control_again_that_reads_fresh_views() -> None:
    fresh, recorded = (Control(task="a:b", network="c:d", enabled=True, recorded=recorded) for recorded in (False, True))
    assert recorded.deciding() - fresh.deciding() == {"views", "view_seed", "mix", "mix_alpha"}
