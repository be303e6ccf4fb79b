"""Several trained networks as one teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from attar.engines.runtimes.torch import build_network, load_network
from attar.models.task import Task
from attar.pipeline.core.errors import StageError


def list_members(folder: Path) -> list[Path]:
    """Return the weights in a folder by name. Raises StageError for fewer than two."""
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    if len(files) < 2:
        raise StageError(
            f"members = {str(folder)!r} holds {len(files)} safetensors files, and an average needs "
            "two or more; save the state_dict of each network there, or name the file in weights"
        )
    return files


def describe_average(
    task: Task, network: str, options: Mapping[str, Any], count: int, weights: Sequence[float]
) -> dict[str, str]:
    """Return the options of ``models.networks.averaged.average`` for ``count`` members.

    ``weights`` are of the members in the order of their files; none: all weigh the same. Raises
    StageError for another number of weights, and for tokens, which have no average.
    """
    if weights and len(weights) != count:
        raise StageError(
            f"member_weights has {len(weights)} numbers for {count} members; write one for each "
            "file, in the order of their names"
        )
    kinds = [output.kind for output in task.outputs.values()]
    if "tokens" in kinds:
        raise StageError(
            f"{type(task).__name__} generates tokens, and sequences have no average; name one "
            "network in weights"
        )
    given = weights or [1.0] * count
    shares = [weight / sum(given) for weight in given]
    return {
        "member": network,
        "options": json.dumps(options, sort_keys=True),
        "shares": json.dumps(shares),
        "kinds": json.dumps(kinds),
    }


def load_average(
    factory: str,
    average: Mapping[str, str],
    files: Sequence[Path],
    network: str,
    options: Mapping[str, Any],
) -> nn.Module:
    """Return ``factory(**average)``, the average of the networks with the weights in ``files``."""
    module = build_network(factory, average)
    for member, file in zip(module.get_submodule("members").children(), files, strict=True):
        member.load_state_dict(load_network(file, network, options).state_dict())
    return module.eval()
