"""Networks that generate, in PyTorch: their graphs agree with one another, and faults are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch_sequences import (
    check_sequence_network,
    open_graphs,
    require_sequence_network,
)
from attar.models.generation import FOLLOW, MODEL, START, STEP, follow, generate, measure_lengths
from attar.models.networks.translation import Translator
from attar.pipeline.core.errors import StageError
from tests.support.tasks.sequences import (
    DECODING,
    OPTIONS,
    SIZE,
    TASK,
    WORDS,
    Recurrent,
    draw_sources,
    make_translator,
)

SOURCES = {"source": draw_sources(3, [1, 2, 3, 4, 5] * 8)}
Tensors = tuple[Tensor, ...]


def select(graphs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: graphs[name] for name in names}


def test_what_generates_at_once_says_what_steps_say() -> None:
    graphs = open_graphs(make_translator(), TASK, DECODING)
    whole = generate(select(graphs, MODEL), SOURCES, DECODING)
    steps = generate(select(graphs, START, STEP), SOURCES, DECODING)
    assert whole.tolist() == steps.tolist()
    lengths = measure_lengths(whole, WORDS)
    assert len(set(lengths.tolist())) > 2
    assert 0 < (whole == WORDS.end).any(1).sum() < len(whole)  # some end, some reach their limit
    assert (lengths <= DECODING.limit_lengths(SOURCES)).all()


def test_following_at_once_gives_what_steps_give() -> None:
    graphs = open_graphs(make_translator(), TASK, DECODING)
    path = np.random.default_rng(0).integers(0, SIZE, (40, 6))
    whole = np.stack(list(follow(select(graphs, FOLLOW), SOURCES, path, DECODING)))
    steps = np.stack(list(follow(select(graphs, START, STEP), SOURCES, path, DECODING)))
    np.testing.assert_allclose(whole, steps, rtol=1e-4, atol=1e-4)
    assert whole.dtype == np.float32


def test_opened_graphs_are_in_evaluation_and_keep_no_gradients() -> None:
    network = Translator(**OPTIONS, pad=0, dropout=0.5).train()
    graphs = open_graphs(network, TASK, DECODING)
    assert not network.training
    first, second = (graphs[MODEL](SOURCES)["words"].tolist() for _ in range(2))
    assert first == second


def test_the_translator_is_right() -> None:
    check_sequence_network(make_translator(), TASK, DECODING)


class Wrapped(nn.Module):
    """The translator with a fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.network, self.fault = make_translator(), fault
        self.kept: Tensors | None = None

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        if self.fault == "both forms read padding":
            source = source.where(source != 0, 3)
        logits: Tensor = self.network(source, prefix)
        if self.fault == "sees the future":
            return logits.roll(-1, 1)
        if self.fault == "other size":
            return logits[..., :5]
        if self.fault == "last token alone":
            return logits[:, -1]
        return logits

    def start(self, source: Tensor) -> tuple[Tensors, Tensors]:
        if self.fault == "start raises":
            raise KeyError("source")
        if self.fault in ("padding is read", "both forms read padding"):
            source = source.where(source != 0, 3)
        memory, state = self.network.start(source)
        if self.fault == "mask of truth values":
            memory = (memory[0] == 0, *memory[1:])
        return memory, state

    def step(self, token: Tensor, place: Tensor, memory: Tensors, state: Tensors) -> tuple[Tensor, Tensors]:
        if self.fault == "place off by one":
            place = place + 1
        if self.fault == "state is dropped":
            state = self.network.start(token[:, None])[1]
        if self.fault == "state of another sample":
            state = tuple(tensor.flip(0) for tensor in state)
        if self.fault == "state kept from the sentence before" and self.kept is not None:
            state = self.kept
        if self.fault == "mask of truth values":
            memory = (torch.zeros(memory[0].shape).masked_fill(~memory[0], -1e4), *memory[1:])
        logits, state = self.network.step(token, place, memory, state)
        self.kept = state
        if self.fault == "not a number":
            logits = logits * torch.nan
        return logits, state


@pytest.mark.parametrize(
    "fault",
    [
        "place off by one",
        "state is dropped",
        "state of another sample",
        "state kept from the sentence before",
        "sees the future",
        "padding is read",
        "not a number",
    ],
)
def test_forward_and_step_that_differ(fault: str) -> None:
    with pytest.raises(StageError, match="forward and its step"):
        check_sequence_network(Wrapped(fault), TASK, DECODING)


def test_padding_that_both_forms_read() -> None:
    with pytest.raises(StageError, match="reads padding"):
        check_sequence_network(Wrapped("both forms read padding"), TASK, DECODING)


@pytest.mark.parametrize("fault", ["", "mask of truth values"])
def test_a_wrapper_without_a_fault_is_right(fault: str) -> None:
    check_sequence_network(Wrapped(fault), TASK, DECODING)


@pytest.mark.parametrize(("fault", "shape"), [("other size", "(2, 6, 5)"), ("last token alone", "forward")])
def test_logits_of_another_shape(fault: str, shape: str) -> None:
    with pytest.raises(StageError) as refused:
        check_sequence_network(Wrapped(fault), TASK, DECODING)
    assert shape in str(refused.value)


def test_a_method_that_raises_is_named() -> None:
    with pytest.raises(StageError, match=r"start and step .* Reversal.*source"):
        check_sequence_network(Wrapped("start raises"), TASK, DECODING)


class OnlyForward(nn.Module):
    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        return prefix


@pytest.mark.parametrize("missing", ["start", "step"])
def test_a_method_that_is_missing_is_named(missing: str) -> None:
    network = OnlyForward()
    network.start = network.step = print  # type: ignore[assignment]  # a method that is never called
    delattr(network, missing)
    with pytest.raises(StageError, match=f"OnlyForward has no method '{missing}'"):
        require_sequence_network(network)


class Echo(nn.Module):
    """A rule: it repeats the token that it reads, and has no weights."""

    def start(self, source: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (source,), ()

    def step(
        self, token: Tensor, place: Tensor, memory: tuple[Tensor, ...], state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return nn.functional.one_hot(token, SIZE).float(), ()

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        return nn.functional.one_hot(prefix, SIZE).float()


def test_a_network_may_have_no_weights_and_no_state() -> None:
    check_sequence_network(Echo(), TASK, DECODING)


class LastAlone(Echo):
    """Its forward answers the last position of the prefix alone."""

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        return super().forward(source, prefix)[:, -1:]


def test_logits_of_fewer_positions_than_the_prefix_has() -> None:
    with pytest.raises(StageError, match=r"shape \(2, 1, 7\) for a prefix of shape \(2, 6\)"):
        check_sequence_network(LastAlone(), TASK, DECODING)


@pytest.mark.parametrize("longest", [3, 5])
def test_a_table_of_too_few_positions(longest: int) -> None:
    """The longest path has six tokens and the longest source five."""
    network = Translator(SIZE, 8, 2, 12, 1, 1, longest, 0, 0.0)
    with pytest.raises(StageError, match="forward cannot read inputs of Reversal"):
        check_sequence_network(network, TASK, DECODING)


class LayersFirst(Recurrent):
    """A state as torch's GRU has it, ``(layers, B, width)``, of which a beam would select layers."""

    def start(self, source: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        memory, (hidden, count) = super().start(source)
        return memory, (torch.stack([hidden] * 2), count)

    def step(
        self, token: Tensor, place: Tensor, memory: tuple[Tensor, ...], state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, (hidden, count) = super().step(token, place, memory, (state[0][0], state[1]))
        return logits, (torch.stack([hidden] * 2), count)


def test_the_batch_comes_first() -> None:
    check_sequence_network(Recurrent(), TASK, DECODING)
    with pytest.raises(StageError, match=r"state_0 of shape \(2, 3, 8\) for 3 samples"):
        check_sequence_network(LayersFirst(), TASK, DECODING)
