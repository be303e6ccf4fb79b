"""Labels and answers of a multilabel output: what is learned from them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attar.models import views
from attar.models.task import Output
from attar.models.tasks.attributes import Attributes
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers
from attar.stages.distill.loss_settings import BinaryKd, Cosine, DistillerSettings, Kd, LabelPearson, Loss, Mse
from attar.stages.distill.objective import DistillationObjective
from attar.stages.label.stage import Label
from attar.stages.learning import losses
from attar.stages.learning.objective import LabelObjective
from attar.stages.optimize.tuning import select_losses
from tests.support.stages.training import make_out
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
    assert LabelObjective()(task, {"attributes": student}, seen, 0).item() == pytest.approx(own.item(), rel=1e-6)
    smooth = losses.binary_cross_entropy(student, labels, 0.1)
    assert LabelObjective(0.1)(task, {"attributes": student}, seen, 0).item() == pytest.approx(smooth.item(), rel=1e-6)
    of_teacher = losses.binary_kd(student, teacher, 2.0) + 3 * losses.label_pearson(student, teacher)
    objective = DistillationObjective(0.25, (BinaryKd(temperature=2.0), LabelPearson(weight=3.0)), answers)
    objective.check_task(task)
    expected = 0.25 * of_teacher + 0.75 * own
    assert objective(task, {"attributes": student}, seen, 0).item() == pytest.approx(expected.item(), rel=1e-6)


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
