"""Losses of stored features: what the teacher beside the student would say, without a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attar.engines.runtimes.torch import build_network, call_network
from attar.engines.runtimes.torch_layers import hook_layer
from attar.models import views
from attar.models.preprocess import Scale
from attar.models.task import load_task
from attar.pipeline.core.errors import StageError, UnfitSettingsError
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.feature_loss_settings import Attention, FeatureLoss, Hint, Rkd, Similarity, SimKd, VkD
from attar.stages.distill.loss_settings import Kd
from attar.stages.distill.objective import DistillationObjective
from attar.stages.distill.reach import check_reach
from attar.stages.distill.stage import Distill
from attar.stages.learning import training
from tests.support.stages.labelling import label_with
from tests.support.stages.training import READER, SENTENCES, InterruptError, interrupt_at, make_out, measure_loss
from tests.support.tasks.ring_task import Ring
from tests.support.tasks.smoke import NOBODY, Images, artifact, two, weights

RING, LAYERS = "tests.support.tasks.ring_task:Ring", "tests.support.tasks.ring_task:layers"
HERE = "tests.stages.distill.test_stored_features"
STUDENT: dict[str, Any] = {"task": RING, "network": LAYERS, "epochs": 2, "batch": 64, "learning_rate": 0.01}
LOSSES: list[FeatureLoss] = [
    Rkd(student="5", teacher="5", pooled=True),
    Similarity(student="0", teacher="0", pooled=True),
    Hint(student="5", teacher="5", pooled=True),
    VkD(student="5", teacher="5", weight=2.0),
    VkD(student="5", teacher="0", normalize="whiten", warmup=0.5),
]
Taught = tuple[Weights, Answers]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp("stored")
    teacher = weights(folder / "teacher", LAYERS, RING, width=16)
    return teacher, label_with(teacher, make_out(folder), features=("0", "5"))


def build(answers: Answers, teacher: Weights | None, *losses: FeatureLoss, **student: Any) -> tuple[Any, nn.Module]:
    """An objective of these losses and its student."""
    torch.manual_seed(0)
    network = build_network(student.get("network", LAYERS), student.get("options", {}))
    objective = DistillationObjective(1.0, losses, answers, teacher=teacher)
    torch.manual_seed(1)
    objective.build_auxiliary(load_task(answers.facts["task"]), network)
    return objective, network


def without_features(answers: Answers) -> Answers:
    facts = {name: value for name, value in answers.facts.items() if name != "features"}
    return Answers(answers.key, answers.digest, answers.root, facts)


def compute(objective: Any, network: nn.Module, answers: Answers, view: int) -> float:
    task = load_task(answers.facts["task"])
    seen = views.make_chunk(task, task.split("train"), 1, seed=0, view=view).take(np.arange(40, 80))
    objective.set_progress(0.25)
    return measure_loss(objective, task, call_network(network, task, seen.inputs), seen, view).item()


def compare_sources(teacher: Weights, answers: Answers, loss: FeatureLoss, view: int = 1, **student: Any) -> tuple[float, float]:
    """The loss of stored features, and of a teacher beside the student, with the same regressor."""
    stored, live = build(answers, None, loss, **student), build(without_features(answers), teacher, loss, **student)
    live[0].live_features.regressors.load_state_dict(stored[0].stored_features.regressors.state_dict())
    return compute(*stored, answers, view), compute(*live, answers, view)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: str(loss.kind))
def test_stored_features_say_what_the_teacher_says(taught: Taught, loss: FeatureLoss) -> None:
    teacher, answers = taught
    stored, live = compare_sources(teacher, answers, loss)
    assert stored == pytest.approx(live, rel=5e-3)  # half precision
    assert stored != live
    assert stored != pytest.approx(compute(*build(answers, None, loss), answers, view=0), rel=1e-6)


def test_states_are_compared_without_their_padding(tmp_path: Path) -> None:
    teacher = weights(tmp_path / "teacher", READER, SENTENCES)
    answers = label_with(teacher, make_out(tmp_path), features=("pair",), views=1)
    network = {"network": "tests.support.tasks.token_task:student"}
    loss = VkD(student="pair", teacher="pair")
    stored, live = compare_sources(teacher, answers, loss, view=0, **network)
    assert stored == pytest.approx(live, rel=5e-3)


def test_the_teacher_may_be_gone(taught: Taught, tmp_path: Path) -> None:
    """Every loss at once; two trainings end in the same bytes, one of which is interrupted."""
    settings, out = STUDENT | {"losses": (Kd(), *LOSSES)}, make_out(tmp_path)
    facts = Distill(**settings).run(out, teacher=NOBODY, answers=taught[1])
    assert facts["features"] == {"stored": ["rkd", "similarity", "hint", "vkd", "vkd"], "live": []}
    assert np.isfinite(facts["history"][-1]["loss"])
    broken = make_out(tmp_path, "broken")
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(15)):  # in the second epoch
        Distill(**settings).run(broken, teacher=NOBODY, answers=taught[1])
    Distill(**settings).run(broken, teacher=NOBODY, answers=taught[1])
    assert (broken / "weights.safetensors").read_bytes() == (out / "weights.safetensors").read_bytes()
    names = set(load_file(out / "weights.safetensors"))
    assert names == set(build_network(LAYERS, {}).state_dict())  # no projection is part of the student


class Doubled(Ring):
    """What a teacher reads that wants other numbers than its student."""

    preprocess = {"point": [Scale(by=2.0)]}


def test_the_teacher_may_read_other_inputs(tmp_path: Path) -> None:
    teacher = weights(tmp_path / "teacher", LAYERS, f"{HERE}:Doubled", width=16)
    answers, settings = label_with(teacher, make_out(tmp_path), features=("5",), views=1), STUDENT | {"epochs": 1}
    Distill(**settings, losses=(VkD(student="5", teacher="5"),)).run(
        make_out(tmp_path, "stored"), teacher=teacher, answers=answers
    )
    with pytest.raises(StageError, match=r"features in \[answers\]"):
        Distill(**settings, losses=(Rkd(student="5", teacher="5"),)).run(make_out(tmp_path), teacher=teacher, answers=answers)


def test_what_is_not_pooled_runs_the_teacher(taught: Taught, tmp_path: Path) -> None:
    teacher, answers = taught
    losses = (Rkd(student="5", teacher="5"), VkD(student="5", teacher="5"))
    facts = Distill(**STUDENT | {"losses": losses, "epochs": 1}).run(make_out(tmp_path), teacher=teacher, answers=answers)
    assert facts["features"] == {"stored": ["vkd"], "live": ["rkd"]}


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (VkD(student="6x", teacher="5"), r"the student has no layer '6x'"),
        (SimKd(student="5", teacher="5"), "projector of 16"),
        (Attention(student="5", teacher="5"), "needs the teacher itself"),
    ],
)
def test_a_loss_that_cannot_read_its_layers_is_refused(taught: Taught, loss: FeatureLoss, told: str) -> None:
    with pytest.raises(StageError, match=told):
        build(taught[1], None, loss)


class Reuser(nn.Module):
    """A trunk of its own, a projector to the teacher's width, and the teacher's head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2, 8), nn.ReLU())
        self.projector = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.add_module("6", nn.Linear(16, 2))

    def forward(self, point: Tensor) -> Tensor:
        made: Tensor = self.get_submodule("6")(self.projector(self.trunk(point)))
        return made


def test_simkd_keeps_the_head_that_it_inherits(taught: Taught, tmp_path: Path) -> None:
    """Chen et al. 2022: the features are learned, and the teacher's classifier is used as it is."""
    teacher, answers = taught
    settings = STUDENT | {"network": f"{HERE}:Reuser", "inherit": True, "lambda_kd": 1.0, "epochs": 12, "learning_rate": 0.03}
    out = make_out(tmp_path)
    facts = Distill(**settings, losses=(SimKd(student="projector", teacher="5"),)).run(out, teacher=teacher, answers=answers)
    trained, known = load_file(out / "weights.safetensors"), load_file(teacher.root / "weights.safetensors")
    assert torch.equal(trained["6.weight"], known["6.weight"])
    assert torch.equal(trained["6.bias"], known["6.bias"])
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"] / 5
    assert facts["correlation"] > 0.95


@pytest.mark.parametrize("compiles", [False, pytest.param(True, marks=pytest.mark.slow)])  # torch's compiler is at work
def test_a_head_that_nothing_teaches_stays_the_teachers(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiles: bool
) -> None:
    """Beside weight decay, which a compiled network's gradient of zeros would let shrink it, and an average of the weights."""
    monkeypatch.setattr(training, "compile_network", lambda module: torch.compile(module, backend="aot_eager"))
    settings = STUDENT | {"network": f"{HERE}:Reuser", "inherit": True, "lambda_kd": 1.0, "epochs": 1, "weight_decay": 0.5}
    stage = Distill(**settings, losses=(SimKd(student="projector", teacher="5"),), ema=0.5, compile=compiles)
    stage.run(out := make_out(tmp_path), teacher=taught[0], answers=taught[1])
    trained, known = load_file(out / "weights.safetensors"), load_file(taught[0].root / "weights.safetensors")
    assert trained["6.weight"].numpy().tobytes() == known["6.weight"].numpy().tobytes()


def test_every_output_is_taught_beside_losses_of_layers_too() -> None:
    """``map`` is behind the hooked layer, as ``logits`` are, and only these have a loss of answers."""
    student = two()
    hooks = [hook_layer(student, "first", "student")]
    with pytest.raises(StageError, match=r"nothing teaches map\.weight, map\.bias: .*'kd'"):
        check_reach(Images(), student, hooks, frozenset(), {"logits"})
    head = frozenset({"map.weight", "map.bias"})
    assert check_reach(Images(), student, hooks, head, {"logits"}) == ["map.weight", "map.bias"]
    assert check_reach(Images(), student, hooks, frozenset(), {"logits", "map"}) == []


def test_an_output_without_a_loss_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    losses = (Kd(output="logits"), Hint(student="first", teacher="first"))
    teacher = weights(tmp_path, "tests.support.tasks.smoke:two", "tests.support.tasks.smoke:Images")
    answers = artifact(Answers, tmp_path, {"views": 0})
    with pytest.raises(StageError, match=r"nothing teaches map\.weight"):
        DistillationObjective(1.0, losses, answers, teacher=teacher).build_auxiliary(Images(), two())


@pytest.mark.parametrize(
    "loss", [SimKd(student="5", teacher="5"), *LOSSES[:4], Attention(student="0", teacher="0")], ids=lambda loss: loss.kind
)
def test_layers_alone_teach_no_head(loss: FeatureLoss) -> None:
    """It is looked at in the network itself, before anything is made."""
    given = STUDENT | {"losses": (loss,), "lambda_kd": 1.0}
    with pytest.raises(UnfitSettingsError, match=r"nothing teaches .*6\.weight.*inherit = true"):
        Distill(**given).check_settings()
    taught = ({"lambda_kd": 0.9}, {"losses": (loss, Kd())}, {"inherit": True}, {"distiller": DistillerSettings()})
    for settings in taught:
        Distill(**given | settings).check_settings()


@pytest.mark.parametrize(
    "loss", [SimKd(student="6", teacher="6"), Rkd(student="6", teacher="6", pooled=True)], ids=["simkd", "rkd"]
)
def test_a_loss_of_the_output_layer_teaches_it(taught: Taught, tmp_path: Path, loss: FeatureLoss) -> None:
    stage = Distill(**STUDENT | {"losses": (loss,), "lambda_kd": 1.0, "epochs": 1})
    facts = stage.run(make_out(tmp_path), teacher=taught[0], answers=taught[1])
    assert facts["history"][0]["loss"] > 0


class RenamedHead(Reuser):
    """Its head has another name than the teacher's."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)

    def forward(self, point: Tensor) -> Tensor:
        made: Tensor = self.head(self.projector(self.trunk(point)))
        return made


def test_a_head_that_is_neither_taught_nor_inherited_is_refused(taught: Taught, tmp_path: Path) -> None:
    settings = STUDENT | {"network": f"{HERE}:RenamedHead", "inherit": True, "lambda_kd": 1.0}
    stage = Distill(**settings, losses=(SimKd(student="projector", teacher="5"),))
    with pytest.raises(StageError, match=r"nothing teaches head\.weight, head\.bias: .*'kd'"):
        stage.run(make_out(tmp_path), teacher=taught[0], answers=taught[1])
