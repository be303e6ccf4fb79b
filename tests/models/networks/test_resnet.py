"""The networks of the CIFAR literature: their size, names and layers are those that others published for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attar.engines.runtimes.torch import build_network
from attar.engines.runtimes.torch_layers import LayerHook, find_layer
from attar.models.networks.resnet import ResNet, resnet
from attar.pipeline.core.errors import StageError


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("depth", "published"), [(8, 1_233_540), (32, 7_433_860)])
def test_as_many_parameters_as_published(depth: int, published: int) -> None:
    """resnet8x4 and resnet32x4: 1.23 M and 7.43 M (Tian et al. 2020 and their code)."""
    assert parameters(resnet(depth)) == published


def test_parameters_by_hand() -> None:
    """Width 2: convolutions 27 + 9(1·2 + 2·2 + 2·4 + 4·4 + 4·8 + 8·8) + shortcuts (2 + 8 + 32), norms 2 each, head 8·3 + 3."""
    norms = 2 * (1 + 2 * 2 + 2 * 4 + 2 * 8 + 2 + 4 + 8)
    assert parameters(resnet(8, width=2, classes=3)) == 27 + 9 * 126 + 42 + norms + 27


def test_tensors_are_named_as_in_published_weights() -> None:
    names = set(resnet(14, 4).state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer1.0.downsample.0.weight", "fc.bias"} < names
    assert {"layer2.0.downsample.1.bias", "layer3.1.bn2.weight"} < names
    assert "layer1.1.downsample.0.weight" not in names


def test_features_of_every_stage_can_be_tapped() -> None:
    module = resnet(8, 4).eval()
    taps = {name: LayerHook(find_layer(module, name, "student")) for name in ("layer1", "layer2", "layer3", "pool")}
    with torch.no_grad():
        logits = module(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 100)
    shapes = {name: tuple(tap().shape) for name, tap in taps.items()}
    assert shapes == {"layer1": (2, 4, 32, 32), "layer2": (2, 8, 16, 16), "layer3": (2, 16, 8, 8), "pool": (2, 16)}


def test_a_block_without_change_of_shape_adds_its_input() -> None:
    block = resnet(14, 4).layer1[1]
    assert isinstance(block, nn.Module)
    last = block.bn2
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(block.eval()(x), x)


@pytest.mark.parametrize("options", [{"depth": 9}, {"depth": 2}, {"width": 3}, {"width": 0}])
def test_depths_and_widths_that_do_not_exist(options: dict[str, int]) -> None:
    with pytest.raises(StageError, match=r"depth must be 6n \+ 2"):
        build_network("attar.models.networks.resnet:resnet", options)
    assert isinstance(build_network("attar.models.networks.resnet:resnet", {"width": 2}), ResNet)
