"""The kernels that a network in PyTorch runs on a GPU."""

from __future__ import annotations

import torch
from torch import nn

from attar.models.task import Task


def choose_convolutions(task: Task) -> None:
    """Let cuDNN time its kernels for each size, if samples have one: a new size is timed anew."""
    axes = [axis for tensor in task.inputs.values() for axis in tensor.axes[1:]]
    torch.backends.cudnn.benchmark = all(isinstance(axis, int) for axis in axes)


def choose_attention(module: nn.Module, place: torch.device) -> None:
    """Let models of transformers compute attention in one kernel on a GPU.

    Exporters want products and a softmax. They have a network that is loaded anew, with those.
    """
    if place.type == "cuda":
        for layer in module.modules():
            if getattr(layer, "_supports_sdpa", False):
                layer.set_attn_implementation("sdpa")  # type: ignore[operator]  # transformers' own
