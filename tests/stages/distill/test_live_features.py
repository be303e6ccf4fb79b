"""Losses of features: the teacher runs beside the student, unchanged, and wrong layers are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.engines.runtimes.torch import build_network, call_network
from attar.models.task import Tensor as Input
from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.feature_loss_settings import Attention, FeatureLoss, HiddenStates, Hint, Rkd, Similarity
from attar.stages.distill.feature_losses import attention
from attar.stages.distill.live_features import LiveFeatureLoss
from attar.stages.distill.loss_settings import Kd
from attar.stages.distill.objective import DistillationObjective
from attar.stages.distill.stage import Distill
from attar.stages.label.stage import Label
from attar.stages.teach.stage import Teach
from tests.support.stages.training import ask_features, make_out
from tests.support.tasks.smoke import DIGITS, NOBODY, RESIDUAL, artifact

STUDENT: dict[str, Any] = {"task": DIGITS, "network": RESIDUAL, "options": {"width": 4}, "epochs": 1, "learning_rate": 0.01}
TASK = load_task(DIGITS)
Taught = tuple[Weights, Answers]
PAIRS: list[FeatureLoss] = [
    Attention(student="stages.1", teacher="stages.1"),
    Similarity(student="stages.2", teacher="stages.2"),
    Rkd(student="head.1", teacher="head.1"),
    Hint(student="stages.0", teacher="stages.0"),
]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp("live")
    root, out = make_out(folder, "teacher"), make_out(folder)
    teacher = artifact(Weights, root, Teach(**STUDENT | {"options": {"width": 8}}).run(root))
    return teacher, artifact(Answers, out, Label(task=DIGITS, views=1).run(out, teacher=teacher))


def live(*losses: FeatureLoss, width: int = 4) -> tuple[torch.nn.Module, torch.nn.Module, LiveFeatureLoss]:
    torch.manual_seed(0)
    student, teacher = build_network(RESIDUAL, {"width": width}), build_network(RESIDUAL, {"width": 8})
    return student, teacher, LiveFeatureLoss(TASK, student, teacher, losses)


def test_the_weighted_sum_of_what_the_two_layers_answer() -> None:
    losses = [Attention(student="stages.1", teacher="stages.1", weight=weight) for weight in (2.0, 0.5)]
    student, teacher, found = live(*losses)
    inputs = TASK.example(np.random.default_rng(1), batch=6)
    seen: list[torch.Tensor] = []
    for module in (student, teacher):
        module.get_submodule("stages.1").register_forward_hook(lambda layer, given, answer: seen.append(answer))
    call_network(student, TASK, inputs)
    got = ask_features(found, inputs).item()
    assert got == pytest.approx(2.5 * attention(*seen).item(), rel=1e-5)


@pytest.mark.parametrize("loss", PAIRS, ids=lambda loss: str(loss.kind))
def test_every_kind_teaches_the_student_and_leaves_the_teacher_alone(taught: Taught, tmp_path: Path, loss: Any) -> None:
    teacher, answers = taught
    before = (teacher.root / "weights.safetensors").read_bytes()
    facts = Distill(**STUDENT, losses=(Kd(), loss)).run(make_out(tmp_path), teacher=teacher, answers=answers)
    assert np.isfinite(facts["history"][0]["loss"])
    assert (teacher.root / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_teacher_runs_in_the_precision_of_the_student(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, expected: torch.dtype
) -> None:
    found: list[torch.dtype] = []
    load = Weights.load

    def watched(weights: Weights) -> torch.nn.Module:
        module = load(weights)
        module.get_submodule("stages.1").register_forward_hook(lambda layer, given, answer: found.append(answer.dtype))
        return module

    monkeypatch.setattr(Weights, "load", watched)
    teacher, answers = taught
    Distill(**STUDENT, losses=(PAIRS[0],), precision=precision).run(make_out(tmp_path), teacher=teacher, answers=answers)
    assert set(found[1:]) == {expected}  # the first call, before the training, looks at shapes


def test_only_regressors_are_trained_beside_the_student() -> None:
    student, teacher, found = live(*PAIRS)
    assert {name for name, _ in found.named_parameters()} == {"regressors.3.weight", "regressors.3.bias"}
    inputs = TASK.example(np.random.default_rng(1), batch=6)
    call_network(student, TASK, inputs)
    ask_features(found, inputs).backward()  # type: ignore[no-untyped-call]  # torch's own
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (Attention(student="stage.1", teacher="stages.1"), r"'stage\.1'; .*'stages\.1'"),
        (Attention(student="stages.1", teacher="body"), r"'body'; .*known: "),
        (
            Hint(student="stages.0", teacher="stages.1"),
            r"hint: .*height and width",
        ),
    ],
)
def test_a_wrong_layer_is_named(loss: FeatureLoss, told: str) -> None:
    with pytest.raises(StageError, match=told):
        live(loss)


class TokenSequences(load_task(DIGITS).__class__):  # type: ignore[misc]  # the class that the name stands for
    inputs = {"t": Input("int64", ("batch", "sequence"), high=50, pad=0)}
    ranges = {"batch": (1, 64), "sequence": (4, 12)}


class SmallEncoder(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(width, 2, 4 * width, batch_first=True)
        self.table, self.encoder = torch.nn.Embedding(50, width), torch.nn.TransformerEncoder(layer, 2)
        self.head = torch.nn.Linear(width, 10)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        states = self.encoder(self.table(t), src_key_padding_mask=t == 0)
        made: torch.Tensor = self.head(states[:, 0])
        return made


@pytest.mark.parametrize("layer", ["encoder.layers.0", "encoder.layers.1", "encoder"])
def test_layers_of_an_encoder_with_a_padding_mask_are_compared(layer: str) -> None:
    """In evaluation mode PyTorch's encoder gives its layers nested tensors."""
    student, teacher = SmallEncoder(16), SmallEncoder(32)
    loss = LiveFeatureLoss(TokenSequences(), student, teacher, [HiddenStates(student=layer, teacher=layer)])
    t = np.random.default_rng(0).integers(1, 50, (8, 12))
    t[:, 9:] = 0
    call_network(student.train(), TokenSequences(), {"t": t})
    assert np.isfinite(ask_features(loss, {"t": t}).item())


def test_without_a_teacher_a_loss_of_features_says_what_it_needs(taught: Taught) -> None:
    objective = DistillationObjective(0.9, [PAIRS[0]], taught[1])
    with pytest.raises(StageError, match="attention"):
        objective.build_auxiliary(TASK, build_network(RESIDUAL, {"width": 4}))


def test_stored_answers_alone_never_open_the_teacher(taught: Taught, tmp_path: Path) -> None:
    """Another architecture, loss, share, temperature and schedule: the teacher is a folder that does not exist."""
    other = {"options": {"width": 6}, "lambda_kd": 0.5, "losses": (Kd(temperature=2.0),), "schedule": "cosine"}
    assert Distill(**STUDENT | other).run(make_out(tmp_path), teacher=NOBODY, answers=taught[1])["history"]
