"""Networks in PyTorch: what is laid out for speed has the gradients that it would have anyway."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from attar.engines import cpu
from attar.engines.runtimes.torch import apply_layout, arrange, check_network, choose_layout, send_array
from attar.engines.runtimes.torch_kernels import choose_convolutions
from attar.models.networks import huggingface
from attar.models.networks.residual import residual
from attar.models.task import Task
from attar.models.tasks.digits import Digits
from attar.pipeline.core.errors import StageError
from tests.support.tasks.bert_task import LONGEST, VOCABULARY_SIZE, make_bert_config
from tests.support.tasks.smoke import Images

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Functional(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, stride=2)


def plain(channels: int) -> nn.Module:
    return nn.Conv2d(channels, 10, 1, 2, bias=False)


def normalized(channels: int) -> nn.Module:
    made: nn.Module = parametrizations.weight_norm(plain(channels))
    return made


def gradients(module: nn.Module, image: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    module(image).square().sum().backward()
    return {name: parameter.grad.double() for name, parameter in module.named_parameters() if parameter.grad is not None}


def check(module: nn.Module, channels: int) -> None:
    """As images are given to it in training, against float64, which oneDNN does not compute."""
    image = np.random.default_rng(0).standard_normal((64, channels, 8, 8), np.float32)
    exact = gradients(deepcopy(module).double(), torch.from_numpy(image).double())
    found = gradients(apply_layout(module, CPU), arrange(send_array(image, CPU), choose_layout(module, CPU)))
    assert found.keys() == exact.keys()
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    for name, gradient in exact.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * largest), name


@pytest.mark.parametrize("made", [plain, normalized, Functional])
@pytest.mark.parametrize("channels", [1, 3, 5, 7, 8, 15, 16])
def test_a_1x1_convolution_with_a_stride_has_its_gradient(channels: int, made: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(0)
    check(made(channels), channels)


@pytest.mark.parametrize("width", [5, 16])
def test_a_residual_network_has_its_gradients(width: int) -> None:
    torch.manual_seed(0)
    check(residual(width).eval(), 1)  # statistics of a batch would amplify rounding


@pytest.mark.parametrize(
    ("machine", "flags", "place", "expected"),
    [
        ("x86_64", {"avx2"}, CPU, torch.contiguous_format),
        ("x86_64", {"avx2", "avx512f"}, CPU, torch.contiguous_format),  # a server of many years ago
        ("x86_64", {"avx2", "avx512f", "avx512bw"}, CPU, torch.channels_last),
        ("x86_64", {"avx2"}, CUDA, torch.channels_last),
        ("aarch64", {"asimd"}, CPU, torch.channels_last),
    ],
)
def test_images_lie_plain_where_gradients_would_be_wrong(
    machine: str, flags: set[str], place: torch.device, expected: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(cpu, "cpu_flags", lambda: flags)
    module = nn.Sequential(large := nn.Conv2d(3, 7, 3), nn.Conv2d(7, 10, 1, 2))
    assert choose_layout(module, place) is expected
    assert arrange(torch.zeros(2, 3, 4, 4), expected).is_contiguous(memory_format=expected)
    apply_layout(module, place)
    assert large.weight.is_contiguous(memory_format=expected)
    for harmless in (nn.Conv2d(8, 10, 1, 2), nn.Conv2d(7, 10, 3, 2), nn.Linear(7, 1)):
        assert choose_layout(harmless, place) is torch.channels_last


@pytest.mark.parametrize(("task", "timed"), [(Digits(), True), (Images(), False)])
def test_convolutions_are_timed_where_samples_have_one_size(task: Task, timed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not timed)
    choose_convolutions(task)
    assert torch.backends.cudnn.benchmark is timed


def test_attention_of_transformers_is_fused_on_a_gpu_and_answers_the_same() -> None:
    torch.manual_seed(0)
    with huggingface.silence_transformers():
        network = huggingface.classifier(make_bert_config(num_labels=3).to_json_string()).eval()
    tokens = torch.randint(1, VOCABULARY_SIZE, (3, LONGEST), generator=torch.Generator().manual_seed(0))
    tokens[1, 5:] = 0  # padding
    found = []
    for place, kind in ((CPU, "eager"), (CUDA, "sdpa")):
        apply_layout(network, place)
        models: list[Any] = [layer for layer in network.modules() if hasattr(layer, "set_attn_implementation")]
        assert {model.config._attn_implementation for model in models} == {kind}
        with torch.no_grad():
            found.append(network(tokens))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


class OddOutputs(nn.Module):
    """A network that gives its outputs in something else than a tuple."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.wrap, self.layer = wrap, nn.Linear(64, 10)

    def forward(self, image: Tensor) -> object:
        return self.wrap(self.layer(image.flatten(1)))


@pytest.mark.parametrize(
    ("wrap", "what"),
    [
        (lambda made: {"logits": made}, "dict"),
        (lambda made: [made], "list"),
        (lambda made: None, "NoneType"),
        (lambda made: (made, {}), "dict"),
    ],
)
def test_a_network_returns_tensors(wrap: Callable[[Tensor], object], what: str) -> None:
    with pytest.raises(StageError, match=rf"returns {what}, and .*\['logits'\]: return one tensor, or a tuple"):
        check_network(OddOutputs(wrap), Digits())
