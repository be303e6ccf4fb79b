"""Warm start: a network begins with what fits of an earlier student's weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from attar.engines.runtimes.torch import build_network
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Weights
from attar.stages.learning.settings import TrainingSettings


class Warm:
    """``Warm(settings, weights)()`` is the network of ``settings`` with the tensors that fit; ``facts`` then say which did.

    Facts: ``key`` (of the weights), ``matched`` (count of tensors), ``parameters`` (their share of the network's), ``other``
    (a line for each tensor of the network that did not fit).
    """

    def __init__(self, settings: TrainingSettings, weights: Weights) -> None:
        self.settings, self.weights = settings, weights
        self.facts: dict[str, Any] = {}

    def __call__(self) -> nn.Module:
        """Raises StageError where nothing fits, and for a control that was switched off."""
        if self.weights.off:
            raise StageError(
                f"start = {self.short!r} is a control that is switched off and holds no weights; name a student's key"
            )
        module = build_network(self.settings.network, self.settings.options)
        tensors = load_file(self.weights.root / "weights.safetensors")
        fit = fitting(module, tensors)
        parameters = dict(module.named_parameters())
        shared = sum(parameters[name].numel() for name in fit if name in parameters)
        if not shared:
            raise StageError(
                f"nothing of start = {self.short!r} fits {self.settings.network}: it has {few(tensors)}, the network "
                f"{few(parameters)}; name the key of a network that shares names and shapes with this one, or leave start out"
            )
        module.load_state_dict({name: tensors[name] for name in fit}, strict=False)
        self.facts = {
            "key": self.weights.key,
            "matched": len(fit),
            "parameters": round(shared / sum(parameter.numel() for parameter in parameters.values()), 6),
            "other": [misfit(name, tensor, tensors) for name, tensor in module.state_dict().items() if name not in fit],
        }
        return module

    @property
    def short(self) -> str:
        return self.weights.key[:12]


def fitting(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with an equal name and shape in both.

    Buffers follow their layer: the statistics of a batch normalisation mean nothing to one of another width.
    """
    own, buffers = module.state_dict(), {name for name, _ in module.named_buffers()}
    misfits = {name for name, tensor in own.items() if name not in tensors or tensors[name].shape != tensor.shape}
    broken = {layer(name) for name in misfits}
    return [name for name in own if name not in misfits and not (name in buffers and layer(name) in broken)]


def layer(name: str) -> str:
    return name.rpartition(".")[0]


def misfit(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> str:
    if name not in tensors:
        return f"{name}: not there"
    if tensors[name].shape == tensor.shape:
        return f"{name}: its layer has another shape"
    return f"{name}: {list(tensors[name].shape)} there, {list(tensor.shape)} here"


def few(names: Iterable[str]) -> str:
    """The first three."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
