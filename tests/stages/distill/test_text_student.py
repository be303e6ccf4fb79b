"""A Hugging Face teacher and a small text student: hidden states and attention relations, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from attar.engines.runtimes.torch import build_network, call_network
from attar.models.networks import huggingface
from attar.models.task import Arrays, Tensor, load_task
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.feature_loss_settings import Attention, AttentionRelations, FeatureLoss, HiddenStates, Hint
from attar.stages.distill.live_features import LiveFeatureLoss
from attar.stages.distill.stage import Distill
from attar.stages.label.stage import Label
from attar.stages.teach.stage import Teach
from tests.support.stages.training import ask_features, make_out
from tests.support.tasks.bert_task import LONGEST, TASK, VOCABULARY_SIZE, RangedSentences, make_bert_config
from tests.support.tasks.smoke import artifact

TRANSFORMER = "attar.models.networks.text:transformer"
OPTIONS = {"width": 12, "layers": 1, "heads": 2, "vocabulary": VOCABULARY_SIZE, "length": LONGEST, "classes": 3, "dropout": 0.0}
STUDENT: dict[str, Any] = {"task": TASK, "network": TRANSFORMER, "options": OPTIONS, "batch": 16, "learning_rate": 0.01}
LAYER = "model.bert.encoder.layer.1"
QKV = tuple(f"{LAYER}.attention.self.{name}" for name in ("query", "key", "value"))
STATES = HiddenStates(student="blocks.0", teacher=LAYER)
RELATIONS = AttentionRelations(student="blocks.0.attention.inside", teacher=QKV, heads=4)
Taught = tuple[Weights, Answers]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp("taught")
    torch.manual_seed(0)
    with huggingface.silence_transformers():
        transformers.BertForSequenceClassification(make_bert_config(num_labels=3)).save_pretrained(folder / "bert")
    root, out = make_out(folder, "teacher"), make_out(folder)
    facts = Teach(task=TASK, huggingface=folder / "bert", device="cpu").run(root)
    teacher = artifact(Weights, root, facts)
    return teacher, artifact(Answers, out, Label(task=TASK, views=1).run(out, teacher=teacher))


def connect(taught: Taught, *losses: FeatureLoss, student: torch.nn.Module | None = None, task: Any = None) -> LiveFeatureLoss:
    torch.manual_seed(0)
    return LiveFeatureLoss(
        task or load_task(TASK), student or build_network(TRANSFORMER, OPTIONS).eval(), taught[0].load(), losses
    )


@pytest.mark.parametrize("loss", [STATES, RELATIONS], ids=lambda loss: str(loss.kind))
def test_a_student_comes_nearer_to_its_teacher(taught: Taught, tmp_path: Path, loss: FeatureLoss) -> None:
    """Learning from that loss nearly alone, of texts of many lengths."""
    teacher, answers = taught
    stage = Distill(**STUDENT, epochs=12, lambda_kd=0.99, losses=(loss,))
    history = stage.run(make_out(tmp_path), teacher=teacher, answers=answers)["history"]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


@pytest.mark.parametrize("loss", [STATES, RELATIONS], ids=lambda loss: str(loss.kind))
def test_padding_a_batch_further_changes_nothing(taught: Taught, loss: FeatureLoss) -> None:
    student = build_network(TRANSFORMER, OPTIONS).eval()
    live = connect(taught, loss, student=student)
    tokens = np.zeros((3, LONGEST), np.int64)
    for row, length in enumerate((2, 9, 6)):
        tokens[row, :length] = np.random.default_rng(row).integers(1, VOCABULARY_SIZE, length)
    found = []
    for size in (9, LONGEST):
        inputs = {"tokens": tokens[:, :size]}
        call_network(student, RangedSentences(), inputs)
        found.append(ask_features(live, inputs).item())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


class Folded(torch.nn.Module):
    """Answers a tuple: the states, and weights beside them, as layers of Hugging Face may."""

    def __init__(self, states_first: bool) -> None:
        super().__init__()
        self.embedding, self.head, self.states_first = (
            torch.nn.Embedding(VOCABULARY_SIZE, 12),
            torch.nn.Linear(12, 3),
            states_first,
        )
        self.layer = Pairing(states_first)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        answer = self.layer(self.embedding(tokens))
        states: torch.Tensor = answer[0] if self.states_first else answer[1]
        return self.head(states.mean(1))  # type: ignore[no-any-return]  # nn.Module calls are untyped


class Pairing(torch.nn.Module):
    def __init__(self, states_first: bool) -> None:
        super().__init__()
        self.states_first = states_first

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (states, None) if self.states_first else (None, states)


def test_of_a_tuple_the_states_are_read(taught: Taught) -> None:
    """A student's layer and a teacher's: ``attention`` of BERT answers its states and None."""
    student = Folded(states_first=True)
    loss = HiddenStates(student="layer", teacher=f"{LAYER}.attention")
    live = connect(taught, loss, student=student)
    inputs = load_task(TASK).example(np.random.default_rng(0), batch=4, sequence=7)
    call_network(student, RangedSentences(), inputs)
    ask_features(live, inputs).backward()  # type: ignore[no-untyped-call]  # torch's own
    assert student.embedding.weight.grad is not None


class Fixed(RangedSentences):
    """The same, always at full length."""

    inputs = {"tokens": Tensor("int64", ("batch", LONGEST), high=VOCABULARY_SIZE, pad=0)}
    ranges = {"batch": (1, 8)}


def test_padding_of_a_fixed_length_is_left_out_too(taught: Taught) -> None:
    student, found = build_network(TRANSFORMER, OPTIONS).eval(), []
    inputs: Arrays = {"tokens": np.pad([[3, 4, 5], [6, 7, 0]], ((0, 0), (0, LONGEST - 3)))}
    for task in (Fixed(), RangedSentences()):
        live = connect(taught, RELATIONS, student=student, task=task)
        call_network(student, task, inputs)
        found.append(ask_features(live, inputs).item())
    assert found[0] == found[1]


class PairedSentences(RangedSentences):
    """Two texts, each with a padding of its own."""

    inputs = {
        "tokens": Tensor("int64", ("batch", "sequence"), high=VOCABULARY_SIZE, pad=0),
        "answer": Tensor("int64", ("batch", "other"), high=VOCABULARY_SIZE, pad=0),
    }


def test_whose_padding_it_is_must_be_known(taught: Taught) -> None:
    with pytest.raises(StageError, match=r"hidden_states: .*PairedSentences"):
        connect(taught, STATES, task=PairedSentences())
    with pytest.raises(StageError, match=r"'token' of RangedSentences .*'tokens'"):
        connect(taught, HiddenStates(student="blocks.0", teacher=LAYER, input="token"))


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (
            Attention(student="blocks.0", teacher=LAYER),
            r"\(2, 1, 12\), .*hidden_states",
        ),
        (Hint(student="blocks.0", teacher=LAYER), r"hint: .*hidden_states"),
        (HiddenStates(student="head", teacher=LAYER), r"\(2, 3\), .*\(2, 1, 32\)"),
        (
            HiddenStates(student="blocks.0", teacher="model.bert.encoder"),
            r"'model\.bert\.encoder' .*last_hidden",
        ),
        (
            AttentionRelations(student="blocks.0.attention.inside", teacher=f"{LAYER}.attention.self", heads=4),
            r"32 numbers .*\[QUERIES, KEYS, VALUES\]",
        ),
        (
            AttentionRelations(student="blocks.0.attention.inside", teacher=(QKV[0], QKV[1], f"{LAYER}.intermediate"), heads=4),
            r"answer \[1, 32\].*\[1, 64\]:",
        ),
        (
            AttentionRelations(student="blocks.0.attention.inside", teacher=QKV, heads=8),
            "heads = 8 must divide both the student's width, 12, and the teacher's, 32; use one of 1, 2, 4",
        ),
        (
            AttentionRelations(student="blocks.0.attention.inside", teacher=(*QKV[:2], "model.bert.values"), heads=4),
            r"'model\.bert\.values'",
        ),
    ],
)
def test_what_a_loss_cannot_read_is_told_before_anything_is_trained(taught: Taught, loss: FeatureLoss, told: str) -> None:
    with pytest.raises(StageError, match=told):
        connect(taught, loss)


def test_a_tuple_that_does_not_begin_with_a_tensor(taught: Taught) -> None:
    with pytest.raises(StageError, match=r"'layer' .*\(NoneType, Tensor\)"):
        connect(taught, HiddenStates(student="layer", teacher=LAYER), student=Folded(states_first=False))
