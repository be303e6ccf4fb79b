"""Checkpoints: one safetensors file with the tensors of a training, and JSON in its header.

A checkpoint is written to another name, brought to the disk and then renamed, so it is complete or
absent.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attar.pipeline.core.errors import StageError
from attar.pipeline.team import Team

TensorGroups = Mapping[str, Mapping[str, Tensor]]
Parameters = Mapping[str, nn.Parameter]
"""All parameters of an optimizer by name. A checkpoint refers to no position in its groups."""
UNSEEN_SECONDS = 120.0
"""How long a file of one node may stay unseen by another: NFS looks again after 60 seconds."""
POLL_SECONDS = 1.0


def copy_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies in the memory of the CPU, which safetensors can write and later
    steps do not change."""
    return {
        name: torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()) for name, t in tensors.items()
    }


def save_checkpoint(
    file: Path,
    groups: TensorGroups,
    optimizer: torch.optim.Optimizer,
    parameters: Parameters,
    state: str,
) -> None:
    """Write the tensors of the groups and of the optimizer, and the JSON ``state``."""
    named = dict(groups)
    for name, parameter in parameters.items():
        named[f"optimizer/{name}"] = optimizer.state.get(parameter, {})
    content: dict[str, Tensor] = {}
    for group, tensors in named.items():
        content |= {f"{group}/{name}": tensor for name, tensor in tensors.items()}
    partial = file.with_suffix(".partial")
    save_file(copy_tensors(content), partial, metadata={"state": state})
    with partial.open("rb") as written:
        os.fsync(written.fileno())  # else a power loss may leave the new name and half the content
    partial.replace(file)


def load_checkpoint(
    file: Path, optimizer: torch.optim.Optimizer, parameters: Parameters
) -> tuple[dict[str, dict[str, Tensor]], str]:
    """Return the saved groups and the JSON, and restore the optimizer's state.

    Raises StageError if the checkpoint is damaged or has other parameters.
    """
    try:
        groups, state = read_groups(file)
    except SafetensorError as error:
        raise StageError(
            f"the checkpoint {file} is damaged ({error}); delete it to start the training again"
        ) from error
    moments = groups.pop("optimizer", {})
    unknown = sorted({key.rpartition("/")[0] for key in moments} - parameters.keys())
    if unknown:
        raise StageError(
            f"the checkpoint {file} has the parameter {unknown[0]!r}, which this training lacks: "
            "it belongs to another training or version of attar; delete it to start the training "
            "again"
        )
    restore_optimizer(optimizer, parameters, moments)
    return groups, state


def read_groups(file: Path) -> tuple[dict[str, dict[str, Tensor]], str]:
    """Return the saved groups and the JSON. Raises SafetensorError for a damaged file."""
    groups: dict[str, dict[str, Tensor]] = {}
    with safe_open(file, framework="pt") as content:
        for key in content.keys():  # noqa: SIM118  # safe_open is no mapping, it only has keys()
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = content.get_tensor(key)
        state: str = content.metadata()["state"]
    return groups, state


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Parameters, moments: Mapping[str, Tensor]
) -> None:
    """Restore the moments in the memory format of their parameters.

    The fused optimizer walks both by address.
    """
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {id(parameter): place for place, parameter in enumerate(order)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in moments.items():
        owner, _, name = key.rpartition("/")
        parameter = parameters[owner]
        if tensor.shape == parameter.shape and name != "step":
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(places[id(parameter)], {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def resume_in_team(
    member: Team, file: Path, load: Callable[[Path], None], read_place: Callable[[], list[int]]
) -> None:
    """Load the checkpoint in all processes if rank 0 has one.

    The others may see it later, through a network's file system. ``read_place`` tells how far this
    process's training is. Raises StageError if a process does not see the checkpoint of rank 0.
    """
    if member.leads and file.exists():
        load(file)
    place = json.loads(member.broadcast(json.dumps(read_place())))
    deadline = time.monotonic() + UNSEEN_SECONDS
    while read_place() != place:
        if file.exists():
            load(file)
        if read_place() == place:
            return
        if time.monotonic() > deadline:
            raise StageError(
                f"process {member.rank} does not see the checkpoint {file} that process 0 goes on "
                "from; put the store on a file system that all nodes share"
            )
        time.sleep(POLL_SECONDS)
