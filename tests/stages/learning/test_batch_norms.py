"""Batch statistics of several processes. Torch synchronizes them between GPUs alone, so what it computes is not run here."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from attar.pipeline.core.errors import StageError
from attar.pipeline.team import Team, use_team
from attar.stages.learning.batch_norms import synchronize_norms
from attar.stages.learning.compute import Compute
from attar.stages.teach.stage import Teach
from tests.support.tasks.smoke import DIGITS, RESIDUAL

FEW, MANY = 64, 128
"""Samples a step of 4 processes: 16 of each, or 32."""


def convolve() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten())


def synchronize(
    module: nn.Module, batch: int, device: str = "cuda", wanted: bool | None = None, world: int = 4, rank: int = 0
) -> nn.Module:
    accelerator: Any = SimpleNamespace(device=torch.device(device), gradient_accumulation_steps=1)
    with use_team(Team(rank, world)):
        return synchronize_norms(module, Compute(accelerator, "fp32", batch), wanted)


def is_synchronized(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.SyncBatchNorm) for layer in module.modules())


@pytest.mark.parametrize(
    ("batch", "wanted", "synchronized"), [(FEW, None, True), (MANY, None, False), (MANY, True, True), (MANY, False, False)]
)
def test_statistics_of_few_samples_are_those_of_all_gpus(batch: int, wanted: bool | None, synchronized: bool) -> None:
    assert is_synchronized(synchronize(convolve(), batch, wanted=wanted)) == synchronized


def test_a_process_alone_and_a_network_without_statistics_stay_as_they_are() -> None:
    network, plain = convolve(), nn.Sequential(nn.Conv2d(1, 2, 1), nn.GroupNorm(1, 2))
    assert synchronize(network, FEW, wanted=True, world=1) is network
    assert synchronize(network, FEW, device="cpu", wanted=True, world=1) is network
    assert synchronize(plain, FEW, device="cpu", wanted=True) is plain


@pytest.mark.parametrize(("device", "wanted"), [("cpu", None), ("cpu", False), ("cuda", False)])
def test_few_samples_that_are_left_are_told_once(device: str, wanted: bool | None) -> None:
    with pytest.warns(UserWarning, match=r"sees 16 samples at once \(4 processes, accumulate = 1\)"):
        assert not is_synchronized(synchronize(convolve(), FEW, device, wanted))
    synchronize(convolve(), FEW, device, wanted, rank=1)  # a warning would be an error here


def test_a_cpu_cannot_synchronize() -> None:
    with pytest.raises(StageError, match=r"synchronize_norms = true needs GPUs.* this is the cpu"):
        synchronize(convolve(), MANY, device="cpu", wanted=True)


def test_what_is_saved_is_what_a_network_with_plain_norms_has() -> None:
    """It is built anew for what follows a training, and filled with these weights."""
    plain, x = convolve(), torch.linspace(-1, 1, 24).reshape(6, 1, 2, 2)
    plain(x)  # the running statistics are others than those of a new one
    made = synchronize(copy.deepcopy(plain), FEW)
    assert is_synchronized(made)
    again = convolve()
    again.load_state_dict(made.state_dict())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    answers = [network.eval()(x) for network in (plain, made, again)]  # evaluation exchanges nothing, so a CPU does it
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def test_it_does_not_count_in_the_key() -> None:
    assert "synchronize_norms" not in Teach(task=DIGITS, network=RESIDUAL).deciding()
