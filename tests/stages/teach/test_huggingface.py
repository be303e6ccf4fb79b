"""A Hugging Face folder as teacher: adopted as it is or trained further, never fetched, unpickled or run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from attar.models.networks import huggingface
from attar.models.task import Arrays, Output, Tensor
from attar.pipeline.core.errors import StageError
from attar.pipeline.keys.deciders import describe_settings
from attar.stages.artifacts import OnnxModel, Weights
from attar.stages.export.stage import Export
from attar.stages.teach.pretrained import read_configuration
from attar.stages.teach.stage import CLASSIFIER, Teach
from tests.support.projects import tiny
from tests.support.stages.training import make_out
from tests.support.tasks.bert_task import LONGEST, TASK, VOCABULARY_SIZE, RangedSentences, make_bert_config
from tests.support.tasks.smoke import artifact, floats

HUGGINGFACE = "attar.models.networks.huggingface"


class Embeddings(RangedSentences):
    outputs = {"vector": Output(("batch", 32), kind="values")}
    classes = ()

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return np.ones((len(outputs["vector"]), 1))


class Wider(RangedSentences):
    inputs = {"tokens": Tensor("int64", ("batch", "sequence"), high=VOCABULARY_SIZE + 1, pad=0)}


class Longer(RangedSentences):
    ranges = {"batch": (1, 8), "sequence": (1, LONGEST + 1)}


class Four(RangedSentences):
    outputs = {"logits": Output(("batch", 4), target="label")}
    classes = ("a", "b", "c", "d")


EMBEDDINGS, FOUR = (f"tests.stages.teach.test_huggingface:{name}" for name in ("Embeddings", "Four"))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Any]:
    """Saves a tiny random model in ``tmp_path / "folder"`` and returns it."""

    def save(kind: str = "BertForSequenceClassification", **changed: Any) -> Any:
        torch.manual_seed(0)
        model = getattr(transformers, kind)(make_bert_config(**changed)).eval()
        with huggingface.silence_transformers():
            model.save_pretrained(tmp_path / "folder")
        return model

    return save


def teach(tmp_path: Path, **given: Any) -> Weights:
    out = make_out(tmp_path)
    facts = Teach(**{"task": TASK, "huggingface": tmp_path / "folder", "device": "cpu", **given}).run(out)
    return artifact(Weights, out, facts)


def sentences() -> npt.NDArray[np.int64]:
    return np.asarray(RangedSentences().split("test").take(np.arange(8)).inputs["tokens"], np.int64)


def own(model: Any, tokens: npt.NDArray[np.int64]) -> Any:
    """What transformers says itself."""
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy((tokens != 0).astype(np.int64)))


def test_a_classifier_is_adopted_and_needs_its_folder_no_more(tmp_path: Path, saved: Callable[..., Any]) -> None:
    model = saved(num_labels=3)
    teacher = teach(tmp_path)
    for path in (tmp_path / "folder").iterdir():
        path.unlink()
    with teacher.open() as predict:
        np.testing.assert_allclose(floats(predict({"tokens": sentences()})["logits"]), own(model, sentences()).logits, atol=1e-5)
    assert (teacher.facts["network"], teacher.facts["history"]) == (CLASSIFIER, [])
    assert json.loads(teacher.facts["options"]["config"])["hidden_size"] == 32
    assert str(tmp_path) not in json.dumps(teacher.facts)


def embedded(model: Any, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The mean of the states that are not padding, of length 1."""
    states = own(model, tokens).last_hidden_state.numpy()
    means = np.stack([state[row != 0].mean(0) for state, row in zip(states, tokens, strict=True)])
    return floats(means / np.linalg.norm(means, axis=1, keepdims=True))


def test_an_encoder_averages_tokens_without_padding(tmp_path: Path, saved: Callable[..., Any]) -> None:
    model = saved("BertModel")
    teacher = teach(tmp_path, task=EMBEDDINGS, network=f"{HUGGINGFACE}:encoder")
    with teacher.open() as predict:
        np.testing.assert_allclose(floats(predict({"tokens": sentences()})["vector"]), embedded(model, sentences()), atol=1e-5)
    assert not any(name.startswith("model.pooler") for name in load_file(teacher.root / "weights.safetensors"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("network", ["classifier", "encoder"])
def test_it_is_exported_by_dynamo_with_its_axes_dynamic(tmp_path: Path, saved: Callable[..., Any], network: str) -> None:
    """``Export`` proves parity at every promised size; here the graph is compared with transformers itself."""
    classifies = network == "classifier"
    model = saved("BertForSequenceClassification" if classifies else "BertModel", num_labels=3)
    teacher = teach(tmp_path, task=TASK if classifies else EMBEDDINGS, network=f"{HUGGINGFACE}:{network}")
    out = tmp_path / "graph"
    out.mkdir()
    graph = artifact(OnnxModel, out, Export().run(out, weights=teacher))
    expected = own(model, sentences()).logits if classifies else embedded(model, sentences())
    with graph.open() as predict:
        (got,) = predict({"tokens": sentences()}).values()
    np.testing.assert_allclose(floats(got), expected, atol=1e-4)


def test_padding_alone_has_an_answer_too() -> None:
    network = huggingface.encoder(json.dumps(make_bert_config().to_dict())).eval()
    with torch.no_grad():
        assert torch.isfinite(network(torch.zeros(1, 4, dtype=torch.int64))).all()


def test_an_encoder_is_trained_further_with_a_fresh_head(tmp_path: Path, saved: Callable[..., Any]) -> None:
    model = saved("BertModel", hidden_dropout_prob=0.0)
    training: dict[str, Any] = {"options": {"classes": 3}, "fine_tune": True, "epochs": 1, "batch": 16, "precision": "fp32"}
    teacher = teach(tmp_path, **training, learning_rate=1e-9, weight_decay=0)
    words = load_file(teacher.root / "weights.safetensors")["model.embeddings.word_embeddings.weight"]
    torch.testing.assert_close(words, model.embeddings.word_embeddings.weight.detach(), atol=1e-6, rtol=0)
    learned = teach(tmp_path, **{**training, "epochs": 4}, learning_rate=1e-3)
    losses = [epoch["loss"] for epoch in learned.facts["history"]]
    assert losses[-1] < losses[0]
    assert learned.facts["options"]["classes"] == 3
    with learned.open() as predict:
        assert predict({"tokens": sentences()})["logits"].shape == (8, 3)


def test_weights_of_a_file_are_trained_further_too(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved(num_labels=3)
    first = teach(tmp_path)
    source = {
        "huggingface": None,
        "network": CLASSIFIER,
        "options": first.facts["options"],
        "weights": first.root / "weights.safetensors",
    }
    second = teach(tmp_path, **source, fine_tune=True, epochs=1, batch=16, learning_rate=1e-9, weight_decay=0)
    before, after = (load_file(each.root / "weights.safetensors") for each in (first, second))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("task", "said"),
    [("Wider", r"50 tokens, Wider .*51"), ("Longer", r"16 tokens, Longer .*17")],
)
def test_tokens_and_places_without_an_embedding_are_refused(
    tmp_path: Path, saved: Callable[..., Any], task: str, said: str
) -> None:
    saved(num_labels=3)
    with pytest.raises(StageError, match=said):
        teach(tmp_path, task=f"tests.stages.teach.test_huggingface:{task}")


class Otherwise(RangedSentences):
    inputs = {"tokens": Tensor("int64", ("batch", "sequence"), high=VOCABULARY_SIZE, pad=1)}


def test_another_padding_than_the_model_s_is_refused(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved(num_labels=3)
    with pytest.raises(StageError, match=r"token 0, Otherwise .*pad = 1"):
        teach(tmp_path, task="tests.stages.teach.test_huggingface:Otherwise")


def test_a_model_without_a_padding_is_refused(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved(num_labels=3, pad_token_id=None)
    with pytest.raises(StageError, match="set pad_token_id"):
        teach(tmp_path)


def test_places_that_are_kept_for_padding_are_no_places() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.RobertaConfig(vocab_size=VOCABULARY_SIZE, max_position_embeddings=12, pad_token_id=1, **sizes)
    network: Any = huggingface.encoder(config.to_json_string())
    assert network.limits == (VOCABULARY_SIZE, 10)
    assert network(torch.full((1, 10), 5)).shape == (1, 32)
    with pytest.raises((RuntimeError, IndexError)):
        network(torch.full((1, 11), 5))


def test_a_pointer_in_place_of_weights_is_refused(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved(num_labels=3)
    (tmp_path / "folder" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(StageError, match=r"folder cannot .*git-lfs"):
        teach(tmp_path)


def test_a_head_of_other_labels_is_refused(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved(num_labels=3)
    with pytest.raises(StageError, match=r"3 labels, Four .*classes = 4"):
        teach(tmp_path, task=FOUR)


def test_classes_in_another_order_are_refused(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved(id2label={0: "Middle", 1: "low", 2: "high"}, label2id={"Middle": 0, "low": 1, "high": 2})
    with pytest.raises(StageError, match="Middle, low, high"):
        teach(tmp_path)


def test_a_head_that_nobody_trained_is_refused(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved("BertModel", num_labels=3)
    with pytest.raises(StageError, match=r"classifier\.bias, .*weight"):
        teach(tmp_path)
    with pytest.raises(StageError, match="fine_tune = true"):
        teach(tmp_path, options={"classes": 3})


def test_pickled_weights_are_refused_with_how_to_convert_them(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved(num_labels=3)
    (tmp_path / "folder" / "model.safetensors").rename(tmp_path / "folder" / "pytorch_model.bin")
    with pytest.raises(StageError, match=r"pytorch_model\.bin\).*save_pretrained"):
        teach(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "has no config.json"),
        ("{", "config.json is not JSON"),
        ('{"auto_map": {"AutoModel": "code.py--Model"}}', r"\(auto_map in config\.json\)"),
        ("{}", r"model.safetensors"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, config: str | None, said: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(StageError, match=said):
        read_configuration(tmp_path)


def test_another_network_cannot_be_filled(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved(num_labels=3)
    with pytest.raises(StageError, match=r"Unfilled .*classifier"):
        teach(tmp_path, network="tests.stages.teach.test_huggingface:unfilled")


class Unfilled(torch.nn.Module):
    pass


def unfilled(config: str) -> Unfilled:
    return Unfilled()


def test_a_model_that_transformers_does_not_know() -> None:
    with pytest.raises(StageError, match=r"'bertt'; .*'bert'"):
        huggingface.classifier('{"model_type": "bertt"}')


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(StageError, match=r"'attar\[text\]'"):
        huggingface.classifier("{}")


def test_the_folder_s_content_counts_and_what_a_tool_hid_there_does_not(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved(num_labels=3)
    folder = tmp_path / "folder"
    stage = Teach(task=TASK, huggingface=folder)
    before = describe_settings(stage)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "fetched").write_text("2026-11-25")
    assert describe_settings(stage) == before
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"] + 1}, folder / "model.safetensors", {"format": "pt"})
    assert describe_settings(stage)["huggingface"] != before["huggingface"]
    assert "epochs" not in before
    assert "epochs" in describe_settings(Teach(task=TASK, huggingface=folder, fine_tune=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "network is missing"),
        ({"weights": "a", "onnx": "b"}, "weights and onnx"),
        ({"onnx": "b", "network": "nets.py:big"}, "fine_tune out"),
        ({"weights": "a"}, "weights need"),
        ({"network": "nets.py:big", "fine_tune": True}, "fine_tune needs weights"),
    ],
)
def test_settings_that_name_no_one_teacher(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Teach(task=TASK, **given)


PROJECT = """
from pathlib import Path
import numpy as np
import attar

class Majority(attar.Task):
    '''Are most words of a sentence late in the dictionary?'''
    inputs = {"tokens": attar.Tensor("int64", ("batch", "sequence"), high=50, pad=0)}
    outputs = {"logits": attar.Output(("batch", 2), target="late")}
    ranges = {"batch": (1, 32), "sequence": (2, 16)}
    classes = ("early", "late")

    def data(self):
        return ["majority 1"]

    def split(self, name):
        generator = np.random.default_rng(len(name))
        late = generator.integers(0, 2, 512)
        sides = np.where(generator.random((512, 16)) < 0.8, late[:, None], 1 - late[:, None])
        tokens = sides * 25 + generator.integers(1, 25, (512, 16))
        tokens[np.arange(16) >= generator.integers(8, 17, 512)[:, None]] = 0
        return attar.InMemory({"tokens": tokens}, {"late": late})

    def score(self, outputs, targets):
        return (outputs["logits"].argmax(1) == targets["late"])[:, None].astype(float)
"""
NETWORKS = """
import torch
from torch import nn

class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 2)

    def forward(self, tokens):
        return self.head(self.words(tokens).mean(1))

def bag():
    return Bag()
"""
RECIPE = """
task = "task.py:Majority"

[teacher]
huggingface = "bert"
options = { classes = 2 }
fine_tune = true
epochs = 3
batch = 32
learning_rate = 3e-3

[answers]
views = 1

[student]
network = "nets.py:bag"
epochs = 12
batch = 32
learning_rate = 0.02

[targets.cpu]
precision = "fp32"
threads = 1

[gates]
score_drop = 0.2
correlation = 0.5
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_run_from_a_folder(tmp_path: Path, saved: Callable[..., Any]) -> None:
    saved("BertModel")
    project = tmp_path / "project"
    tiny.write(project, task=PROJECT, nets=NETWORKS, recipe=RECIPE)
    (tmp_path / "folder").rename(project / "bert")
    made = tiny.run(project)
    assert made["targets"]["cpu"]["verdict"] == "passed"
    hops = {hop["hop"]: hop for hop in tiny.entry(made, "cpu.evidence")["facts"]["hops"]}
    assert hops["teacher"]["score"] > 0.9
    assert hops["reference"]["teacher"]["correlation"] > 0.9999
    assert tiny.made_again(tiny.run(project)) == []
