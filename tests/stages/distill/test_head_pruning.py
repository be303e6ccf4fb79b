"""Heads and hidden units that a student with fewer of them takes over."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attar.models.networks.huggingface import classifier
from attar.models.networks.narrowed import classifier as narrowed_classifier
from attar.models.networks.text import transformer
from attar.pipeline.core.errors import StageError
from attar.stages.distill.head_pruning import Block, cut_heads, find_blocks, list_linears
from attar.stages.distill.inheritance import inherit_weights
from tests.support.tasks.bert_task import RangedSentences, make_bert_config

BERT = make_bert_config(num_attention_heads=4, hidden_dropout_prob=0.0).to_json_string()


def make_reader(heads: int = 4, hidden: int = 10, head_width: int = 3, width: int = 12) -> nn.Module:
    sizes = {"vocabulary": 20, "length": 8, "classes": 3, "head_width": head_width, "hidden": hidden}
    return transformer(width=width, layers=2, heads=heads, dropout=0.0, **sizes).eval()


def mask_others(teacher: nn.Module, student: nn.Module) -> nn.Module:
    """Return the teacher whose layers read 0 in place of every number that the student does not have."""
    masked, own = copy.deepcopy(teacher), list_linears(student)
    for name, layer in list_linears(masked).items():
        kept = own[name].weight.T  # (fewer, out)
        if len(kept) < layer.in_features:
            is_kept = (layer.weight.T[:, None] == kept).all(2).any(1)  # (in,)
            assert is_kept.sum() == len(kept)
            layer.weight.data[:, ~is_kept] = 0.0
    return masked


@settings(max_examples=20, deadline=None)
@given(heads=st.integers(1, 4), hidden=st.integers(1, 10), seed=st.integers(0, 999))
def test_the_student_begins_as_the_teacher_whose_other_heads_are_masked(heads: int, hidden: int, seed: int) -> None:
    torch.manual_seed(seed)
    teacher, student = make_reader(), make_reader(heads, hidden)
    student.load_state_dict(cut_heads(teacher, student))
    tokens = torch.randint(0, 20, (4, 8))
    assert torch.allclose(student(tokens), mask_others(teacher, student)(tokens), atol=1e-5)


def test_heads_of_bert_are_cut_with_its_layers() -> None:
    torch.manual_seed(0)
    teacher, student = classifier(BERT, classes=3).eval(), narrowed_classifier(BERT, 3, layers=1, heads=2, hidden=20).eval()
    student.load_state_dict(inherit_weights(teacher, student, RangedSentences(), {}))
    tokens = torch.randint(0, 50, (4, 9))
    masked = mask_others(teacher, student)  # whose layers were dropped
    assert torch.allclose(student(tokens), masked(tokens), atol=1e-5)


class ThreeHeads(nn.Module):
    heads = 3

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(2, size, bias=False) for _ in range(3))
        self.outside = nn.Linear(size, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_the_heads_of_the_largest_norms_are_kept_in_their_order() -> None:
    """Heads of two numbers. Their squares over all weights, by head: 4 + 0, 0 + 36 and 2 + 8."""
    teacher, student = ThreeHeads(6), ThreeHeads(4)
    student.heads = 2
    for name, heads in {"query": (1, 0, 0.5), "key": (0, 0, 0.5), "value": (0, 0, 0)}.items():
        teacher.get_submodule(name).weight = nn.Parameter(
            torch.tensor(heads, dtype=torch.float32).repeat_interleave(2)[:, None].expand(6, 2)
        )
    teacher.outside.weight = nn.Parameter(torch.tensor([0.0, 3.0, 2**0.5]).repeat_interleave(2).expand(2, 6))
    tensors = cut_heads(teacher, student)
    assert tensors["outside.weight"][0].tolist() == pytest.approx([3.0, 3.0, 2**0.5, 2**0.5])
    assert tensors["query.weight"].tolist() == [[0.0, 0.0], [0.0, 0.0], [0.5, 0.5], [0.5, 0.5]]


def test_layers_that_make_and_read_the_same_numbers_are_a_block() -> None:
    """Of BERT the attention and the feed-forward part have one width here, and are told apart by where they stand."""
    config = make_bert_config(num_attention_heads=4, intermediate_size=32, num_hidden_layers=1).to_json_string()
    blocks = find_blocks(classifier(config, classes=3), narrowed_classifier(config, 3, heads=2, hidden=16))
    layer = "model.encoder.layer.0"
    projections = tuple(f"{layer}.attention.self.{name}" for name in ("query", "key", "value"))
    assert blocks == [
        Block(projections, f"{layer}.attention.output.dense", 32, 16, fused=False),
        Block((f"{layer}.intermediate.dense",), f"{layer}.output.dense", 32, 16, fused=False),
    ]


def test_heads_of_another_width_stay_whole() -> None:
    teacher, student = make_reader(heads=4, head_width=3), make_reader(heads=2, head_width=4)
    assert cut_heads(teacher, student)["blocks.0.attention.outside.weight"].shape == (12, 12)


class SharedKeys(nn.Module):
    """Heads of two numbers with fewer keys and values."""

    def __init__(self, heads: int, *, keys: int, fused: bool, named: bool) -> None:
        super().__init__()
        if named:
            self.heads = heads
        self.query, self.outside = nn.Linear(8, 2 * heads), nn.Linear(2 * heads, 8)
        for name in ("both",) if fused else ("key", "value"):
            self.add_module(name, nn.Linear(8, 2 * keys if fused else keys))


@pytest.mark.parametrize(("keys", "fused", "named"), [(2, False, True), (2, False, False), (8, False, False), (2, True, True)])
def test_heads_that_share_keys_stay_whole(keys: int, fused: bool, named: bool) -> None:
    """Those of Llama say nowhere how many they are; those of Qwen3 have as many keys as states."""
    teacher, student = (SharedKeys(heads, keys=keys, fused=fused, named=named) for heads in (6, 5))
    assert len(find_blocks(teacher, student)) == 1
    tensors = cut_heads(teacher, student)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in teacher.state_dict().items()
    }


class FlatLayer(nn.Module):
    """Attention and feed-forward layers in one module."""

    def __init__(self, heads: int, hidden: int, *, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        for name, width in ({"inside": 6 * heads} if fused else dict.fromkeys(("query", "key", "value"), 2 * heads)).items():
            self.add_module(name, nn.Linear(8, width))
        self.outside = nn.Linear(2 * heads, 8)
        self.up, self.down = nn.Linear(8, hidden), nn.Linear(hidden, 8)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("heads", [2, 4])
def test_hidden_units_beside_heads_in_one_module_are_cut(heads: int, fused: bool) -> None:
    teacher, student = FlatLayer(4, 20, fused=fused), FlatLayer(heads, 10, fused=fused)
    student.load_state_dict(cut_heads(teacher, student))


def test_another_width_of_the_states_cuts_nothing() -> None:
    assert find_blocks(make_reader(), make_reader(width=6)) == []
    wide, narrow = (nn.Sequential(nn.Linear(2, size), nn.Linear(size, size), nn.Linear(size, 2)) for size in (6, 3))
    assert find_blocks(wide, narrow) == []


def test_an_attention_that_does_not_say_its_heads_is_named() -> None:
    teacher, student = ThreeHeads(6), ThreeHeads(4)
    teacher.heads = None  # type: ignore[assignment]  # as a module without the attribute
    with pytest.raises(StageError, match=r"ThreeHeads, which has query, key, value, .* attribute heads"):
        cut_heads(teacher, student)
