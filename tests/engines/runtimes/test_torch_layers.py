"""Taps: what a layer was given and what it answered, and the messages of names that are wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attar.engines.runtimes.torch_layers import LayerHook, find_last_linear, find_layer, hook_layer
from attar.pipeline.core.errors import StageError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def test_a_layer_s_answer_and_its_input() -> None:
    module = network()
    after, before = LayerHook(module[1]), LayerHook(module[2], before=True)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.relu(module[0](x))
    assert torch.equal(module(x), module[2](expected))  # listening changes nothing
    assert torch.equal(after(), expected)
    assert torch.equal(before(), expected)
    module(2 * x)
    assert not torch.equal(after(), expected)  # always the last call


def test_what_was_read_keeps_its_gradient_and_is_float32() -> None:
    module = network()
    tap = LayerHook(module[0])
    module(torch.ones(1, 3))
    tap().sum().backward()  # type: ignore[no-untyped-call]  # torch does not annotate Tensor.backward
    assert isinstance(module[0], nn.Linear)
    assert module[0].weight.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        module(torch.ones(1, 3))
    assert tap().dtype == torch.float32


def test_a_layer_that_was_not_reached() -> None:
    with pytest.raises(StageError, match="was not called"):
        LayerHook(nn.Linear(1, 1))()


class Answering(nn.Module):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self) -> object:
        return self.answer


ONE, TWO = torch.ones(1), torch.full((1,), 2.0)


@pytest.mark.parametrize("answer", [(ONE, TWO), (ONE, None), [ONE]])
def test_of_several_the_first_is_read(answer: object) -> None:
    layer = Answering(answer)
    tap = LayerHook(layer)
    layer()
    assert torch.equal(tap(), ONE)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((None, ONE), r"\(NoneType, Tensor\)"),
        (((ONE, TWO), ONE), r"\(tuple, Tensor\)"),
        ({"states": ONE}, r"dict \(states\)"),
        ((), r"answers tuple \(\), not"),
        (None, "answers NoneType, not"),
    ],
)
def test_what_has_no_tensor_first_is_told_with_what_it_has(answer: object, told: str) -> None:
    module = nn.Sequential(Answering(answer))
    tap = hook_layer(module, "0", "student")
    module[0]()
    with pytest.raises(StageError, match=f"student's layer '0' .*{told}"):
        tap()


def test_a_wrong_name_lists_those_that_exist() -> None:
    with pytest.raises(StageError, match=r"'3'; .*0, 1, 2"):
        find_layer(network(), "3", "student")
    assert find_layer(network(), "1", "student").__class__ is nn.ReLU


def test_the_last_linear_layer() -> None:
    module = network()
    assert find_last_linear(module) is module[2]
    with pytest.raises(StageError, match=r"distiller\.features"):
        find_last_linear(nn.Sequential(nn.Conv2d(1, 1, 1)))
