"""Small networks and tasks with one thing that is hard about each, and artifacts of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from safetensors.torch import save_file
from torch import nn

from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor
from attar.models.tasks.digits import Digits
from attar.models.views import iterate_clean
from attar.pipeline.core import names
from attar.pipeline.core.stage import Artifact, Facts
from attar.stages.artifacts import Answers, Ranges, Weights
from attar.stages.label.shards import Shard, ShardBuilder, save_shard

A = TypeVar("A", bound=Artifact)
DIGITS = "attar.models.tasks.digits:Digits"
RESIDUAL = "attar.models.networks.residual:residual"
MOBILE = "attar.models.networks.mobile:mobile"


def artifact(kind: type[A], root: Path, facts: Facts) -> A:
    return kind(key="0" * 64, digest="1" * 64, root=root, facts=facts)


class Known(Ranges):
    """Ranges that are given: facts hold them by method."""

    def compute_ranges(self, method: str = "minmax", percent: float = 99.99) -> dict[str, tuple[float, float]]:
        return dict(self.facts[method])


def known(ranges: Mapping[str, tuple[float, float]], **others: Mapping[str, tuple[float, float]]) -> Known:
    """By every method the same, but for those that are named."""
    methods = ("minmax", "percentile", "entropy", "mse")
    return artifact(Known, Path("nowhere"), {**dict.fromkeys(methods, ranges), **others})


NOBODY = artifact(Weights, Path("nowhere"), {})
"""A teacher that cannot be asked: what is distilled from stored answers alone never opens it."""
UNASKED = artifact(Answers, Path("nowhere"), {})
"""Answers that are not there: what needs none never reads them."""


def floats(array: Array) -> npt.NDArray[np.float64]:
    """For comparisons: what a predictor returns has a dtype that only its task knows."""
    return np.asarray(array, np.float64)


def weights(root: Path, network: str, task: str, **options: Any) -> Weights:
    """Random weights from a seed."""
    torch.manual_seed(0)
    return stored(root, names.load_object(network)(**options), network, task, options)


def stored(root: Path, module: nn.Module, network: str, task: str, options: Mapping[str, Any]) -> Weights:
    root.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, root / "weights.safetensors")
    return artifact(Weights, root, {"task": task, "network": network, "options": dict(options)})


def digits_weights(root: Path) -> Weights:
    """A residual network with the batch statistics of real digits, so that activations and logits are of ordinary size."""
    torch.manual_seed(0)
    module: nn.Module = names.load_object(RESIDUAL)(width=8).train()
    with torch.no_grad():
        for seen in iterate_clean(Digits(), Digits().split("train")):
            module(torch.from_numpy(np.asarray(seen.inputs["image"], np.float32)))
    return stored(root, module, RESIDUAL, DIGITS, {"width": 8})


STRANGE = """
    <ir_version: 9, opset_import: ["" : 20, "my.ops" : 1]>
    strange (float[batch,1,8,8] image) => (float[batch,10] logits) {
        seen = Relu(image)
        logits = my.ops.Strange(seen)
    }"""


def strange(folder: Path) -> Path:
    """A graph whose last node has an operator that no runtime knows."""
    graph = onnx.parser.parse_model(STRANGE)
    for number, node in enumerate(graph.graph.node):
        node.name = f"node_{number}"
    onnx.save(graph, folder / "model.onnx")
    return folder / "model.onnx"


def write_shard(root: Path, shard: Shard, outputs: Mapping[str, Array]) -> None:
    """As ``Label`` stores it."""
    packed = [ShardBuilder(name, Output(("batch", *array.shape[1:])), shard.dtype) for name, array in outputs.items()]
    for each in packed:
        each.add(outputs[each.name])
    save_shard(root / shard.name, packed)


class ThreeNumbers(Task):
    """Three numbers in, the same three out."""

    inputs = {"x": Tensor("float32", ("batch", 3))}
    outputs = {"y": Output(("batch", 3), kind="values")}
    ranges = {"batch": (1, 8)}

    def data(self) -> list[str]:
        return []

    def split(self, name: SplitName) -> Split:
        return InMemory({"x": self.numbers()}, {})

    def numbers(self) -> npt.NDArray[np.float32]:
        """Row i is i, i + 0.25, i + 0.5."""
        made: npt.NDArray[np.float32] = (np.arange(100)[:, None] + np.array([0, 0.25, 0.5])).astype(np.float32)
        return made

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["y"]), 1))


class WithNan(ThreeNumbers):
    def numbers(self) -> npt.NDArray[np.float32]:
        made = super().numbers()
        made[70, 1] = np.nan
        return made


class WrongAxes(ThreeNumbers):
    outputs = {"y": Output(("batch", 3, 1), kind="values")}


class Unranged(ThreeNumbers):
    ranges = {}


class Images(Task):
    """Images of any size, two outputs: three dynamic axes."""

    inputs = {"image": Tensor("float32", ("batch", 4, "height", "width"))}
    outputs = {"logits": Output(("batch", 5)), "map": Output(("batch", 2, "height", "width"), kind="values")}
    ranges = {"batch": (1, 8), "height": (4, 12), "width": (4, 20)}

    def data(self) -> list[str]:
        return []

    def split(self, name: SplitName) -> Split:
        return InMemory(self.example(np.random.default_rng(0), batch=40, height=8, width=8), {})

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["logits"]), 1))


class Doubler(nn.Module):
    """``2 x``, with something that goes wrong, or not."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.weight = nn.Parameter(torch.full((3,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.weight  # (B, 3)
        if self.fault == "frozen":
            return y.reshape(int(x.shape[0]), 3)  # a trace keeps the number
        if self.fault == "reads data" and float(y.sum()) > 0:
            return -y
        if self.fault == "infinite":
            return y / torch.zeros(3)
        if self.fault == "large":
            return y + 1000.0 * (x.shape[0] > 4)
        return y


def double(fault: str = "") -> Doubler:
    return Doubler(fault)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.map = nn.Conv2d(8, 2, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.first(image))  # (B, 8, H, W)
        return self.head(x.mean((2, 3))), self.map(x)  # (B, 5), (B, 2, H, W)


def two() -> Two:
    return Two()


class Linear(nn.Module):
    """Nothing but a last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def linear() -> Linear:
    return Linear()


class MaskedEncoder(nn.Module):
    """One encoder block with a mask of minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.out = nn.Linear(3, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.inner(x.unsqueeze(2) * torch.ones(3)))  # (B, 3, 16)
        mask = torch.full((3, 3), float("-inf")).triu(1)  # (3, 3)
        h = torch.softmax(h @ h.transpose(1, 2) + mask, 2) @ h  # (B, 3, 16)
        return self.out(h).mean(2)  # type: ignore[no-any-return]  # (B, 3); nn.Module calls are untyped


def attention() -> MaskedEncoder:
    return MaskedEncoder()
