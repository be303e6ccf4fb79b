"""Labels and answers of several decisions a sample and of positions: what is learned from them, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attar.models import views
from attar.models.task import Output
from attar.models.tasks.attributes import Attributes
from attar.models.tasks.pixels import Pixels
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.loss_settings import BinaryKd, Cosine, Dist, Dkd, Kd, LabelPearson, LogitPearson, Loss, Mse
from attar.stages.distill.objective import DistillationObjective
from attar.stages.label.stage import Label
from attar.stages.learning import losses
from attar.stages.learning.objective import LabelObjective
from attar.stages.learning.validation import Validation
from attar.stages.optimize.fidelity import correlate_outputs, read_known
from attar.stages.optimize.tuning import select_losses
from tests.support.stages.training import make_out, measure_loss
from tests.support.tasks.smoke import RESIDUAL, artifact, weights

TASK = "attar.models.tasks.attributes:Attributes"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("answers")
    teacher, out = weights(folder / "teacher", RESIDUAL, TASK, width=4, classes=6), make_out(folder)
    return artifact(Answers, out, Label(task=TASK, views=1).run(out, teacher=teacher))


def test_labels_and_answers_reach_their_losses(answers: Answers) -> None:
    task = Attributes()
    seen = views.make_chunk(task, task.split("train"), 0, seed=0, view=0)
    student = torch.randn(len(seen.indices), 6, generator=torch.Generator().manual_seed(0))
    teacher = torch.from_numpy(answers.open_rows("train", 0)["attributes"][seen.indices].astype(np.float32))
    labels = torch.from_numpy(np.asarray(seen.targets["attributes"], np.float32))
    own = losses.binary_cross_entropy(student, labels)
    assert measure_loss(LabelObjective(), task, {"attributes": student}, seen, 0).item() == pytest.approx(own.item(), rel=1e-6)
    smooth = losses.binary_cross_entropy(student, labels, 0.1)
    assert measure_loss(LabelObjective(0.1), task, {"attributes": student}, seen, 0).item() == pytest.approx(
        smooth.item(), rel=1e-6
    )
    of_teacher = losses.binary_kd(student, teacher, 2.0) + 3 * losses.label_pearson(student, teacher)
    objective = DistillationObjective(0.25, (BinaryKd(temperature=2.0), LabelPearson(weight=3.0)), answers)
    objective.check_task(task)
    expected = 0.25 * of_teacher + 0.75 * own
    assert measure_loss(objective, task, {"attributes": student}, seen, 0).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("loss", [Kd(output="attributes"), Cosine(output="attributes")])
def test_losses_of_one_of_several_classes_are_refused(answers: Answers, loss: Loss) -> None:
    with pytest.raises(StageError, match="multilabel: use binary_kd, label_pearson or mse"):
        DistillationObjective(1.0, (loss,), answers).check_task(Attributes())


def test_a_recipe_without_losses_is_told_which(answers: Answers) -> None:
    with pytest.raises(StageError, match="kind = 'binary_kd', output = 'attributes'"):
        DistillationObjective(1.0, (Kd(),), answers).check_task(Attributes())
    DistillationObjective(1.0, (Mse(),), answers).check_task(Attributes())


def test_the_distiller_reads_one_of_several_classes_alone(answers: Answers) -> None:
    objective = DistillationObjective(1.0, (BinaryKd(),), answers, DistillerSettings())
    with pytest.raises(StageError, match="one output of logits"):
        objective.build_auxiliary(Attributes(), torch.nn.Linear(2, 6))


def test_tuning_an_int8_graph_learns_what_is_measured() -> None:
    assert select_losses(Attributes()) == [BinaryKd(output="attributes"), LabelPearson(output="attributes")]


def test_a_student_whose_teacher_answers_another_kind_is_refused(answers: Answers) -> None:
    classes = type("Classes", (Attributes,), {"outputs": {"attributes": Output(("batch", 6), target="attributes")}})()
    with pytest.raises(StageError, match="not one problem"):
        DistillationObjective(1.0, (Kd(),), answers).check_task(classes)


# ---- classes at positions, some of them ignored

PIXELS = "attar.models.tasks.pixels:Pixels"


@pytest.fixture(scope="module")
def pixel_answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("pixels")
    network = "attar.models.networks.pixels:dilated"
    teacher, out = weights(folder / "teacher", network, PIXELS, width=2), make_out(folder)
    return artifact(Answers, out, Label(task=PIXELS, views=1).run(out, teacher=teacher))


@pytest.fixture(scope="module")
def seen() -> ViewBatch:
    task = Pixels()
    return views.make_chunk(task, task.split("train"), 0, seed=0, view=0).take(np.arange(16))


def draw_student(seed: int = 0) -> torch.Tensor:
    return torch.randn(16, 12, 20, 11, generator=torch.Generator().manual_seed(seed))


LOSSES: tuple[Loss, ...] = (Kd(), Dkd(), Dist(), LogitPearson(), Mse())


@pytest.mark.parametrize("loss", LOSSES, ids=[type(loss).__name__ for loss in LOSSES])
def test_a_loss_reads_the_known_positions_alone(pixel_answers: Answers, seen: ViewBatch, loss: Loss) -> None:
    task, student = Pixels(), draw_student()
    labels = torch.from_numpy(np.asarray(seen.targets["label"], np.int64))
    known = labels != 255
    teacher = torch.from_numpy(pixel_answers.open_rows("train", 0)["logits"][seen.indices].astype(np.float32))
    objective = DistillationObjective(0.5, (loss,), pixel_answers)
    objective.check_task(task)
    of_teacher = loss(student[known], teacher[known], labels[known])
    of_labels = losses.cross_entropy(student[known], labels[known])
    got = measure_loss(objective, task, {"logits": student}, seen, 0).item()
    assert got == pytest.approx((0.5 * of_teacher + 0.5 * of_labels).item(), rel=1e-5)


def test_an_ignored_position_has_no_gradient(pixel_answers: Answers, seen: ViewBatch) -> None:
    student = draw_student().requires_grad_()
    objective = DistillationObjective(0.5, (Kd(), LogitPearson()), pixel_answers)
    measure_loss(objective, Pixels(), {"logits": student}, seen, 0).backward()  # type: ignore[no-untyped-call]  # torch's own
    assert student.grad is not None
    known = torch.from_numpy(np.asarray(seen.targets["label"])) != 255
    assert not student.grad[~known].any()
    assert student.grad[known].any(-1).all()


def test_samples_without_labels_ignore_nothing(pixel_answers: Answers, seen: ViewBatch) -> None:
    """The last four of sixteen have no labels, as those of transfer."""
    labels = np.asarray(seen.targets["label"], np.int64)[:12]
    mixed = replace(seen, targets={"label": labels})
    known = np.concatenate([labels != 255, np.ones((4, 12, 20), bool)])
    student = draw_student()
    teacher = torch.from_numpy(pixel_answers.open_rows("train", 0)["logits"][seen.indices].astype(np.float32))
    got = measure_loss(DistillationObjective(1.0, (Kd(),), pixel_answers), Pixels(), {"logits": student}, mixed, 0)
    mask = torch.from_numpy(known)
    assert got.item() == pytest.approx(losses.kd(student[mask], teacher[mask], 4.0).item(), rel=1e-5)


def test_the_distiller_has_no_features_of_chosen_positions(pixel_answers: Answers) -> None:
    objective = DistillationObjective(1.0, (Kd(),), pixel_answers, DistillerSettings())
    with pytest.raises(StageError, match="ignores nothing"):
        objective.build_auxiliary(Pixels(), torch.nn.Linear(2, 11))


def test_validation_and_the_floor_of_int8_read_the_known_positions_alone(pixel_answers: Answers) -> None:
    """Of a network that answers as the teacher does, and at every ignored pixel the opposite."""
    task = Pixels()
    batch = task.split("validation").take(np.arange(100))
    known = {"logits": np.asarray(batch.targets["label"]) != 255}
    stored = np.asarray(pixel_answers.open_rows("validation")["logits"][np.arange(100)])
    wrong = np.where(known["logits"][..., None], stored, -stored)
    rows = iter(np.split(wrong, [views.PIECE_SAMPLES]))
    scores = Validation(task, pixel_answers).evaluate({"model": lambda _: {"logits": next(rows)}})
    assert (scores["correlation"], scores["kdl"]) == (1, 0)
    np.testing.assert_array_equal(read_known(task)["logits"], known["logits"])
    assert correlate_outputs(task, {"logits": stored}, {"logits": wrong}, known) == 1
    assert correlate_outputs(task, {"logits": stored}, {"logits": wrong}, {}) < 0.95
    assert read_known(Attributes()) == {}
