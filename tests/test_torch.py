"""Networks in PyTorch: what is laid out for speed computes what it computed before."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from attar.models.networks.residual import residual
from attar.stages.runtimes.torch import channels_last


def gradients(module: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    module(image).square().sum().backward()
    return {name: parameter.grad.double() for name, parameter in module.named_parameters() if parameter.grad is not None}


def check(module: nn.Module, channels: int) -> None:
    """Against float64, which oneDNN does not compute."""
    image = torch.randn(64, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = gradients(deepcopy(module).double(), image.double())
    found = gradients(channels_last(module), image.contiguous(memory_format=torch.channels_last))
    assert found.keys() == exact.keys()
    for name, gradient in exact.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())), name


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1), (1, 2), (3, 3)])
@pytest.mark.parametrize("channels", [1, 3, 5, 7, 8, 15, 16])
def test_a_1x1_convolution_with_a_stride_has_its_gradient(channels: int, stride: tuple[int, int]) -> None:
    torch.manual_seed(0)
    check(nn.Conv2d(channels, 10, 1, stride, bias=False), channels)


@pytest.mark.parametrize("width", [5, 16])
def test_a_residual_network_has_its_gradients(width: int) -> None:
    torch.manual_seed(0)
    check(residual(width).eval(), 1)  # statistics of a batch would amplify rounding


def test_only_what_overflows_is_laid_out_otherwise_and_once() -> None:
    narrow, wide, large = nn.Conv2d(5, 10, 1, 2), nn.Conv2d(16, 10, 1, 2), nn.Conv2d(5, 10, 3, 2)
    channels_last(channels_last(nn.Sequential(narrow, wide, large)))
    assert [len(each._forward_pre_hooks) for each in (narrow, wide, large)] == [1, 0, 0]
    assert narrow.weight.stride() == (5, 1, 1, 1)
    assert large.weight.is_contiguous(memory_format=torch.channels_last)
