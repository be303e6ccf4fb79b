"""Checkpoints: one safetensors file with the tensors of a training, its JSON in the header, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

Groups = Mapping[str, Mapping[str, Tensor]]


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies: what safetensors writes, and what later steps do not change."""
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def save(file: Path, groups: Groups, optimizer: torch.optim.Optimizer, state: str) -> None:
    moments = optimizer.state_dict()["state"]
    everything = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    everything |= {f"optimizer/{index}/{name}": tensor for index, each in moments.items() for name, tensor in each.items()}
    partial = file.with_suffix(".partial")
    save_file(copied(everything), partial, metadata={"state": state})
    partial.replace(file)


def load(file: Path, optimizer: torch.optim.Optimizer) -> tuple[dict[str, dict[str, Tensor]], str]:
    """The groups that were saved and the JSON; the optimizer goes on from where it was."""
    groups: dict[str, dict[str, Tensor]] = {}
    with safe_open(file, framework="pt") as content:
        for key in content.keys():  # noqa: SIM118  # safe_open is no mapping, it only has keys()
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = content.get_tensor(key)
        state: str = content.metadata()["state"]
    restore(optimizer, groups.pop("optimizer", {}))
    return groups, state


def restore(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """The moments in the memory format of their parameters: the fused optimizer walks both by address."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in moments.items():
        index, name = key.split("/")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape and name != "step":
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
