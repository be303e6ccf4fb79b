"""The optimizer's groups of parameters, and the moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attar.stages.learning.settings import TrainingSettings

ParameterGroup = dict[str, list[nn.Parameter] | float]
"""Parameters with their own settings, as ``torch.optim`` takes them."""
WEIGHTED_LAYERS = (nn.Linear, nn.Bilinear, nn.Embedding, nn.modules.conv._ConvNd)

DEFAULT_MOMENTUM = 0.9


def create_optimizer(settings: TrainingSettings, module: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW or SGD for the parameters of ``module``; the schedule sets its learning rate."""
    groups = split_by_decay(module, settings.weight_decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    momentum = DEFAULT_MOMENTUM if settings.momentum is None else settings.momentum
    return torch.optim.SGD(groups, momentum=momentum, nesterov=settings.nesterov, fused=True)


def split_by_decay(module: nn.Module, decay: float) -> list[ParameterGroup]:
    """Return the optimizer's groups: the parameters that decay, and those that do not."""
    undecayed = find_undecayed(module)
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p not in undecayed], "weight_decay": decay},
        {"params": [p for p in parameters if p in undecayed], "weight_decay": 0.0},
    ]


def find_undecayed(module: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that do not decay: biases, those of norms, and scales.

    A norm may have parameters of several axes (``LayerNorm((4, 8))``), and so may a scale
    (``(1, 64, 1, 1)``). The weights of linear layers and convolutions decay whatever their shape.
    """
    undecayed: set[nn.Parameter] = set()
    for layer in module.modules():
        is_norm = "Norm" in type(layer).__name__
        for name, parameter in layer.named_parameters(recurse=False):
            sized = parameter if isinstance(layer, WEIGHTED_LAYERS) else parameter.squeeze()
            if is_norm or name.endswith("bias") or sized.ndim < 2:
                undecayed.add(parameter)
    return undecayed


class MovingAverage(AveragedModel):
    """``AveragedModel`` without a wait: that copies its number of steps to the GPU in each step."""

    def update_parameters(self, model: nn.Module) -> None:
        if self.n_averaged == 0 or self.multi_avg_fn is None:
            super().update_parameters(model)
            return
        pairs = zip(list_tensors(self.module), list_tensors(model), strict=True)
        groups: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for own, new in pairs:
            groups.setdefault(own.dtype, []).append((own, new))
        for group in groups.values():
            averages, tensors = zip(*group, strict=True)
            self.multi_avg_fn(averages, tensors, self.n_averaged)
        self.n_averaged += 1


def list_tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]


def create_average(module: nn.Module, decay: float) -> AveragedModel | None:
    """Return a moving average of the weights and the batch statistics; None if ``decay`` is 0."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch has no types
    return MovingAverage(module, multi_avg_fn=average, use_buffers=True)
