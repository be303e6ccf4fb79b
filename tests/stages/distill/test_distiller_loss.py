"""The distiller beside a student: trained with it, resumed with it, in no graph that is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from attar.engines.runtimes.torch import build_network, call_network
from attar.models.task import Output, Tensor, load_task
from attar.models.tasks.digits import Digits
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.distiller_loss import DistillerLoss, choose_output
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.known_answers import read_answers
from attar.stages.distill.stage import Distill
from attar.stages.export.stage import Export
from attar.stages.label.stage import Label
from attar.stages.learning.lesson import Lesson, send_lesson
from attar.stages.teach.stage import Teach
from tests.support.stages.training import InterruptError, interrupt_at, make_out
from tests.support.tasks.smoke import DIGITS, NOBODY, RESIDUAL, artifact

STUDENT: dict[str, Any] = {"task": DIGITS, "network": RESIDUAL, "options": {"width": 4}, "epochs": 2, "learning_rate": 0.01}
BESIDE = DistillerSettings(hidden=16)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("answers")
    taught, out = make_out(folder, "teacher"), make_out(folder)
    teacher = artifact(Weights, taught, Teach(**STUDENT | {"epochs": 3}).run(taught))
    return artifact(Answers, out, Label(task=DIGITS, views=2).run(out, teacher=teacher))


def distilled(out: Path, answers: Answers, **settings: Any) -> Weights:
    return artifact(Weights, out, Distill(**STUDENT | settings).run(out, teacher=NOBODY, answers=answers))


def connected(settings: DistillerSettings, seed: int = 0) -> tuple[nn.Module, DistillerLoss]:
    torch.manual_seed(seed)
    student = build_network(RESIDUAL, {"width": 4})
    return student, DistillerLoss(settings, Digits(), student)


def asked(student: nn.Module, companion: DistillerLoss, *, logits: bool = True) -> torch.Tensor:
    """What the companion adds for eight images; without ``logits`` only through the features that are shared."""
    task = load_task(DIGITS)
    inputs = task.example(np.random.default_rng(0), batch=8)
    outputs = call_network(student, task, inputs)["logits"]
    return companion(outputs if logits else outputs.detach(), lesson())


def lesson() -> Lesson[torch.Tensor]:
    """What a teacher says of eight images, each of another digit."""
    teacher = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
    return Lesson({}, {("answers", "logits"): teacher, ("answer labels", "logits"): torch.arange(8)}, 8)


def test_both_attentions_and_the_distiller_are_in_the_history(tmp_path: Path, answers: Answers) -> None:
    facts = distilled(make_out(tmp_path), answers, distiller=BESIDE, epochs=3).facts
    names = {"distiller_score", "distiller_kdl", *(f"{who}_attention_entropy" for who in ("teacher", "student"))}
    assert all(names <= entry.keys() for entry in facts["history"])
    assert facts["history"][-1]["distiller_score"] > facts["history"][0]["distiller_score"]  # it learns
    assert all(0 < entry["teacher_attention_entropy"] <= 1 for entry in facts["history"])


def test_without_attention_nothing_is_said_of_it(tmp_path: Path, answers: Answers) -> None:
    plain = DistillerSettings(hidden=16, teacher_attention=False, student_attention=False)
    entry = distilled(make_out(tmp_path), answers, distiller=plain, epochs=1).facts["history"][0]
    assert "distiller_score" in entry
    assert not any("attention" in name for name in entry)


def test_the_exported_graph_is_that_of_a_student_without_one(tmp_path: Path, answers: Answers) -> None:
    """The same weights by name and shape, the same nodes: only the numbers differ."""
    shapes = []
    for name, distiller in (("with", BESIDE), ("without", None)):
        student, out = (
            distilled(make_out(tmp_path, name), answers, distiller=distiller, epochs=1),
            make_out(tmp_path, f"{name} onnx"),
        )
        assert set(student.load().state_dict()) == set(build_network(RESIDUAL, {"width": 4}).state_dict())
        Export(exporter="torchscript").run(out, weights=student)
        graph = onnx.load(out / "model.onnx").graph
        nodes = [(node.op_type, list(node.input), list(node.output)) for node in graph.node]
        shapes.append((nodes, {tensor.name: list(tensor.dims) for tensor in graph.initializer}))
    assert shapes[0] == shapes[1]


def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path: Path, answers: Answers) -> None:
    whole, broken = make_out(tmp_path, "whole"), make_out(tmp_path, "broken")
    facts = distilled(whole, answers, distiller=BESIDE, epochs=3).facts
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(14)):
        distilled(broken, answers, distiller=BESIDE, epochs=3)
    assert distilled(broken, answers, distiller=BESIDE, epochs=3).facts == facts
    assert (broken / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("trunk", [True, False])
def test_its_own_loss_moves_the_shared_layers_only_where_that_is_wanted(trunk: bool) -> None:
    student, companion = connected(DistillerSettings(hidden=16, trunk=trunk))
    asked(student, companion, logits=False).backward()  # type: ignore[no-untyped-call]  # torch does not annotate Tensor.backward
    moved = {name for name, parameter in student.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert any(name.startswith("stem") for name in moved) == trunk
    assert not any(name.startswith("head") for name in moved)  # above the features nothing is shared
    assert all(parameter.grad is not None for parameter in companion.network.parameters())


def test_the_student_does_not_pull_the_distiller_towards_itself() -> None:
    """The gradient of the distiller's parameters is the same whatever the student's logits are."""
    student, companion = connected(DistillerSettings(hidden=16, student_attention=False))
    grads = []
    for scale in (1.0, -3.0):
        companion.network.zero_grad()
        task = load_task(DIGITS)
        logits = scale * call_network(student, task, task.example(np.random.default_rng(0), batch=8))["logits"]
        companion(logits, lesson()).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        grads.append([parameter.grad.clone() for parameter in companion.network.parameters() if parameter.grad is not None])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


def test_a_layer_may_be_named_and_a_wrong_name_lists_the_others() -> None:
    student, companion = connected(DistillerSettings(hidden=16, features="head.1"))
    assert companion.network.student.in_features == 16  # 4 * width channels, pooled and flattened
    assert asked(student, companion).isfinite()
    with pytest.raises(StageError, match=r"'neck'.*head.0"):
        connected(DistillerSettings(features="neck"))
    with pytest.raises(StageError, match="row of features"):
        connected(DistillerSettings(features="stem"))


class TwoHeads(Digits):
    outputs = {"logits": Output(("batch", 10), target="label"), "again": Output(("batch", 10), target="label")}


class UnlabelledDigits(Digits):
    outputs = {"logits": Output(("batch", 10))}


def test_which_output_it_is_about() -> None:
    assert choose_output(DistillerSettings(), Digits()) == "logits"
    assert choose_output(DistillerSettings(output="again"), TwoHeads()) == "again"
    with pytest.raises(StageError, match="TwoHeads has logits"):
        choose_output(DistillerSettings(), TwoHeads())
    with pytest.raises(StageError, match="UnlabelledDigits has none"):
        choose_output(DistillerSettings(), UnlabelledDigits())
    with pytest.raises(StageError, match=r"'logit'.*'logits'"):
        choose_output(DistillerSettings(output="logit"), Digits())


class ClassOfEachPosition(Digits):
    """A class for each position of a sequence; samples may be longer than others."""

    inputs: ClassVar[dict[str, Tensor]] = {"x": Tensor("float32", ("batch", "sequence", 4))}
    outputs: ClassVar[dict[str, Output]] = {"y": Output(("batch", "sequence", 3), target="label")}
    ranges = {"batch": (1, 8), "sequence": (1, 6)}


@pytest.mark.parametrize("answered", [[2, 4], [3, 3]])
def test_each_row_of_logits_meets_the_features_of_its_own_position(answered: list[int]) -> None:
    """Two samples of four positions. Where the teacher answered fewer, the others count nowhere."""
    student = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    companion = DistillerLoss(DistillerSettings(hidden=4), ClassOfEachPosition(), student)
    x = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    stored = np.zeros((2, max(answered), 3), np.float32)
    for row, count in enumerate(answered):
        stored[row, count:] = np.nan
    labels = np.zeros((2, max(answered)), np.int64)
    parts = read_answers("y", ClassOfEachPosition.outputs["y"], stored, ViewBatch(np.arange(2), {"x": x}, {"label": labels}))
    seen: list[torch.Tensor] = []
    companion.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0]))
    companion(student(torch.from_numpy(x)), send_lesson(Lesson({}, parts, 2), torch.device("cpu")))
    states = student[0](torch.from_numpy(x))
    assert torch.equal(seen[0], torch.cat([states[row, :count] for row, count in enumerate(answered)]))


# ---- in two steps

FIRST = DistillerSettings(hidden=16, pretraining=0.5)


def gradients(settings: DistillerSettings, progress: float) -> tuple[set[str], set[str], float, DistillerLoss]:
    """The parameters of the student and of the distiller that the loss moves, and the loss."""
    student, loss = connected(settings)
    task = load_task(DIGITS)
    loss.set_progress(progress)
    inputs = task.example(np.random.default_rng(0), batch=8)
    outputs = call_network(student, task, inputs)
    copied = loss.run_copy(inputs)
    value = loss((copied if loss.is_pretraining else outputs)["logits"], lesson())
    value.backward()  # type: ignore[no-untyped-call]  # torch does not annotate Tensor.backward
    assert loss.copy is not None
    of_distiller = nn.ModuleDict({"copy": loss.copy, "network": loss.network})
    moved = [{name for name, each in part.named_parameters() if each.grad is not None} for part in (student, of_distiller)]
    return moved[0], moved[1], value.item(), loss


def test_first_the_distiller_learns_alone() -> None:
    student, distiller, value, loss = gradients(FIRST, 0.25)
    assert student == set()
    assert {name.split(".")[0] for name in distiller} == {"copy", "network"}
    assert not any("attention" in name for name in distiller)
    with torch.no_grad():
        logits, _ = loss.network(loss.hook(), torch.randn(8, 10, generator=torch.Generator().manual_seed(1)))
    assert value == pytest.approx(nn.functional.cross_entropy(logits, torch.arange(8)).item(), rel=1e-6)
    assert loss.pop_means().keys() == {"distiller_score"}


def test_then_the_student_learns_from_the_frozen_distiller() -> None:
    student, distiller, _, loss = gradients(FIRST, 0.5)
    assert "stem.0.weight" in student or len(student) > 4
    assert distiller == {"network.attention.weight", "network.attention.bias"}
    assert loss.copy is not None
    assert not loss.copy.training
    assert {"distiller_score", "distiller_kdl"} <= loss.pop_means().keys()


def test_each_part_has_its_own_schedule() -> None:
    _, loss = connected(DistillerSettings(hidden=16, pretraining=0.2))
    told = [loss.set_progress(progress) for progress in (0.0, 0.1, 0.2, 0.6)]
    assert told == pytest.approx([0.0, 0.5, 0.0, 0.5])
    _, together = connected(BESIDE)
    assert together.set_progress(0.3) == 0.3
    assert not together.is_pretraining


def test_the_student_is_untouched_until_its_part_begins(tmp_path: Path, answers: Answers) -> None:
    """And an interruption in either part changes nothing."""
    settings: dict[str, Any] = {"distiller": FIRST, "epochs": 2, "ema": 0.0}
    whole, broken = make_out(tmp_path, "whole"), make_out(tmp_path, "broken")
    facts = distilled(whole, answers, **settings).facts
    first, last = facts["history"]
    assert "distiller_kdl" not in first
    assert last["distiller_kdl"] > 0
    for step in (4, 14):
        with pytest.raises(InterruptError), listen_to_progress(interrupt_at(step)):
            distilled(broken, answers, **settings)
    assert distilled(broken, answers, **settings).facts == facts
    assert (broken / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_the_students_batch_statistics_are_not_those_of_the_distillers_part(tmp_path: Path, answers: Answers) -> None:
    distiller = DistillerSettings(hidden=16, pretraining=0.99)
    module = distilled(make_out(tmp_path), answers, distiller=distiller, epochs=1).load()
    moved = {name: bool(each.any()) for name, each in module.named_buffers() if name.endswith(("running_mean", "tracked"))}
    assert set(moved.values()) == {False}


@pytest.mark.parametrize("settings", [{"distiller": {"pretraining": 0.5, "trunk": False}}, {"distiller": FIRST, "patience": 2}])
def test_settings_that_contradict_two_steps_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="pretraining"):
        Distill(**STUDENT | settings)
