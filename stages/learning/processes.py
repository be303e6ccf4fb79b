"""Connect the processes that torchrun started: by gloo on CPUs, by NCCL between GPUs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import product

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from attar.pipeline import team
from attar.pipeline.core.errors import StageError
from attar.pipeline.keys.machine import read_driver_version
from attar.pipeline.team import Team

WAIT_LIMIT = timedelta(days=365)
"""The other processes may wait for hours while rank 0 exports, builds and measures. torchrun ends
them if rank 0 dies."""


@contextmanager
def join_process_group() -> Iterator[Team]:
    """Join the team of all processes that torchrun started.

    The process group stays open: accelerate finds and uses it.
    """
    store, rank, world = next(rendezvous("env://"))
    store.set_timeout(WAIT_LIMIT)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    prefixed = distributed.PrefixStore  # type: ignore[attr-defined]  # torch does not list it
    own = prefixed("group", store)
    with team.join_team(prefixed("attar", store), rank, world) as joined:
        cuda = torch.version.cuda if torch.cuda.is_available() else "none that torch can use"
        check_alike(joined, torch=torch.__version__, CUDA=cuda, driver=read_driver_version())
        distributed.init_process_group(backend, store=own, rank=rank, world_size=world)
        yield joined


def check_alike(member: Team, **own: str | None) -> None:
    """Check that all processes compute with the same, before one waits for another in vain.

    Raises StageError that names the first process with something else than process 0.
    """
    node = platform.node()
    rows = [json.loads(text) for text in member.gather(json.dumps({**own, "node": node}))]
    for name, (rank, row) in product(own, enumerate(rows)):
        if row[name] != rows[0][name]:
            raise StageError(
                f"process {rank} on {row['node']} has {name} {row[name]}, process 0 on "
                f"{rows[0]['node']} has {rows[0][name]}; start torchrun on nodes that are alike"
            )


def check_gpus(member: Team) -> None:
    """Raises StageError unless each process has a GPU to itself, of the same kind."""
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    check_alike(member, GPU=found.name)
    users: dict[str, int] = {}
    for rank, gpu in enumerate(member.gather(f"{platform.node()} {found.uuid}")):
        if (other := users.setdefault(gpu, rank)) != rank:
            raise StageError(
                f"processes {other} and {rank} share one GPU of {gpu.split()[0]}; give torchrun's "
                "--nproc-per-node at most the number of its GPUs, or use --device cpu"
            )
