"""Connect the processes that torchrun started: by gloo on CPUs, by NCCL between GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from attar.pipeline import team
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
    distributed.init_process_group(backend, store=own, rank=rank, world_size=world)
    with team.join_team(prefixed("attar", store), rank, world) as joined:
        yield joined
