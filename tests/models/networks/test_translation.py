"""The translator: its three forms agree, padding is not read, and no token sees a later one."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.models.networks.translation import Translator, encode_positions, translator
from tests.support.tasks.sequences import OPTIONS, SIZE, draw_sources

LONGEST = int(OPTIONS["longest"])
patient = settings(deadline=None, max_examples=12)
seeds = st.integers(0, 3)
lengths_of_sources = st.lists(st.integers(1, LONGEST), min_size=1, max_size=3)


@cache
def make_network(seed: int = 0, **options: Any) -> Translator:
    torch.manual_seed(seed)
    return translator(**{**OPTIONS, **options}).eval()


def draw_prefix(seed: int, samples: int, length: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, SIZE, (samples, length)))


def take_steps(network: Translator, source: Tensor, prefix: Tensor) -> Tensor:
    """Return logits ``(B, T, size)`` by ``start`` and ``step``."""
    memory, state = network.start(source)
    logits = []
    for place in range(prefix.shape[1]):
        step, state = network.step(prefix[:, place], torch.tensor([place]), memory, state)
        logits.append(step)
    return torch.stack(logits, 1)


@patient
@given(seed=seeds, lengths=lengths_of_sources, tokens=st.integers(1, LONGEST))
@torch.no_grad()
def test_forward_and_step_are_one_network(seed: int, lengths: list[int], tokens: int) -> None:
    network = make_network(seed)
    source = torch.from_numpy(draw_sources(seed, lengths))
    prefix = draw_prefix(seed, len(lengths), tokens)
    whole = network(source, prefix)
    assert whole.shape == (len(lengths), tokens, SIZE)
    torch.testing.assert_close(take_steps(network, source, prefix), whole)


@patient
@given(seed=seeds, lengths=lengths_of_sources)
@torch.no_grad()
def test_padding_of_the_source_changes_nothing(seed: int, lengths: list[int]) -> None:
    network = make_network(seed)
    sources = torch.from_numpy(draw_sources(seed, lengths))
    padded = torch.nn.functional.pad(sources, (0, LONGEST - sources.shape[1]))
    prefix = draw_prefix(seed, len(lengths), 4)
    logits = network(padded, prefix)
    for row, length in enumerate(lengths):
        alone = network(sources[row : row + 1, :length], prefix[row : row + 1])
        torch.testing.assert_close(logits[row : row + 1], alone)


@patient
@given(seed=seeds, place=st.integers(0, LONGEST - 1))
@torch.no_grad()
def test_a_later_token_changes_no_earlier_logit(seed: int, place: int) -> None:
    network = make_network(seed)
    source = torch.from_numpy(draw_sources(seed, [5, 3]))
    prefix = draw_prefix(seed, 2, LONGEST)
    changed = prefix.clone()
    changed[:, place] = (changed[:, place] + 1) % SIZE
    one, two = network(source, prefix), network(source, changed)
    torch.testing.assert_close(one[:, :place], two[:, :place], rtol=0, atol=0)
    assert not torch.equal(one[:, place], two[:, place])


@torch.no_grad()
def test_the_order_of_the_source_and_of_the_prefix_counts() -> None:
    network = make_network()
    source, prefix = torch.tensor([[3, 4, 5]]), torch.tensor([[1, 3, 4, 5]])
    logits = network(source, prefix)
    assert not torch.allclose(network(source.flip(1), prefix), logits)
    assert not torch.allclose(network(source, torch.tensor([[1, 4, 3, 5]]))[:, 3], logits[:, 3])


def test_the_cache_begins_empty_and_grows_by_one() -> None:
    network = make_network()
    memory, state = network.start(torch.tensor([[3, 4, 0], [3, 0, 0]]))
    assert memory[0].flatten(1).tolist() == [[0, 0, -1e4], [0, -1e4, -1e4]]
    assert [tuple(tensor.shape) for tensor in state] == [(2, 2, 0, 4)] * 4
    _, state = network.step(torch.tensor([1, 1]), torch.tensor([0]), memory, state)
    assert [tuple(tensor.shape) for tensor in state] == [(2, 2, 1, 4)] * 4


def test_another_padding_is_masked() -> None:
    network = make_network(pad=5)
    memory, _ = network.start(torch.tensor([[5, 0, 3]]))
    assert memory[0].flatten().tolist() == [-1e4, 0, 0]


def test_places_by_hand() -> None:
    # Width 4: the rates are 1 and 1/100.
    expected = [[0, 1, 0, 1], [np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)]]
    np.testing.assert_allclose(encode_positions(2, 4), expected, atol=1e-6)
    assert encode_positions(3, 5).shape == (3, 5)


def test_one_table_embeds_and_answers() -> None:
    network = make_network()
    assert sum(SIZE in tensor.shape for tensor in network.parameters()) == 1
    assert "positions" not in network.state_dict()


def test_every_weight_learns() -> None:
    network = make_network(4).train()
    source, prefix = torch.from_numpy(draw_sources(0, [5, 3])), draw_prefix(0, 2, 4)
    network(source, prefix).square().sum().backward()
    still = [name for name, tensor in network.named_parameters() if tensor.grad is None]
    assert not still


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_acts_in_training_alone(dropout: float) -> None:
    network = make_network(5, dropout=dropout)
    source, prefix = torch.tensor([[3, 4, 5]]), torch.tensor([[1, 3, 4]])
    assert torch.equal(network(source, prefix), network(source, prefix))
    network.train()
    torch.manual_seed(1)
    same = torch.equal(network(source, prefix), network(source, prefix))
    assert same == (dropout == 0)
