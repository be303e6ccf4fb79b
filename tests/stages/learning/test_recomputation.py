"""Gradient checkpointing: less is kept for the backward pass, and nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attar.models.networks.mobile import mobile
from attar.models.networks.residual import residual
from attar.models.networks.text import transformer
from attar.models.networks.translation import translator
from attar.pipeline.core.errors import StageError
from attar.stages.learning.recomputation import list_blocks, recompute_blocks
from attar.stages.teach.stage import Teach
from tests.support.stages.training import make_out
from tests.support.tasks.smoke import DIGITS


class NormalizedBlock(nn.Module):
    """Batch statistics, random numbers, a setting by name."""

    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8, momentum=momentum)
        self.last = nn.Linear(8, 8)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        made: Tensor = self.last(nn.functional.dropout(self.norm(self.layer(x)).tanh(), 0.5, self.training))
        return x + scale * made


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([NormalizedBlock(0.1), NormalizedBlock(None), NormalizedBlock(0.5)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, scale=0.5)
        return x


def run_step(module: nn.Module) -> tuple[dict[str, Tensor], int]:
    """Return all gradients and buffers of one step, and the bytes that it kept for its backward pass."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = module(inputs).square().mean()
    held = sum(kept.values())
    loss.backward()
    gradients = {f"{name}.grad": each.grad for name, each in module.named_parameters() if each.grad is not None}
    return gradients | dict(module.named_buffers()), held


def test_gradients_and_statistics_stay_and_less_is_kept() -> None:
    torch.manual_seed(1)
    plain = Stack()
    again = recompute_blocks(copy.deepcopy(plain))
    assert list(again.state_dict()) == list(plain.state_dict())
    (expected, most), (found, held) = run_step(plain), run_step(again)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert held < most / 2
    assert [block.norm.momentum for block in again.blocks] == [0.1, None, 0.5]  # type: ignore[union-attr]  # a Stack's


def test_a_copy_computes_with_its_own_weights() -> None:
    module = recompute_blocks(Stack())
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    inputs = torch.ones(2, 8)
    assert torch.equal(module.eval()(inputs), inputs)
    assert not torch.equal(twin.eval()(inputs), inputs)


def test_the_blocks_of_networks() -> None:
    def count(module: nn.Module) -> int:
        return len(list(list_blocks(module)))

    assert count(transformer(width=16, layers=3, vocabulary=50, length=12, classes=5)) == 3
    assert count(translator(size=7, width=8, heads=2, hidden=12, encoder=2, decoder=3, longest=8)) == 2 + 3
    assert count(residual(width=4, blocks=2)) == 1 + 3 * 2  # with the first convolution and its norm
    assert count(mobile(width=4)) > 3
    assert count(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == 0


def test_a_network_without_blocks() -> None:
    with pytest.raises(StageError, match=r"Linear has no nn\.ModuleList.*checkpointing = false"):
        recompute_blocks(nn.Linear(2, 2))


def test_a_training_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """With an average of the weights, which is a copy of the network; the key does not hold it either."""
    settings = {
        "task": DIGITS,
        "network": "attar.models.networks.residual:residual",
        "options": {"width": 4, "blocks": 1},
        "epochs": 1,
        "ema": 0.9,
        "precision": "fp32",
    }
    files = []
    for checkpointing in (False, True):
        stage = Teach(**settings, checkpointing=checkpointing)
        assert "checkpointing" not in stage.deciding()
        stage.run(out := make_out(tmp_path, str(checkpointing)))
        files.append((out / "weights.safetensors").read_bytes())
    assert files[0] == files[1]
