"""Processes: how those that torchrun started reach each other. gloo carries tensors on the CPU, NCCL between GPUs."""

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

LONG = timedelta(days=365)
"""Rank 0 may export, build and measure for hours while the others wait for it; torchrun ends them if it dies."""


@contextmanager
def assembled() -> Iterator[Team]:
    """This process in the team of all that torchrun started. It stays in one process group, which accelerate finds and uses."""
    store, rank, world = next(rendezvous("env://"))
    store.set_timeout(LONG)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    prefixed = distributed.PrefixStore  # type: ignore[attr-defined]  # documented, and missing in torch's own list of names
    distributed.init_process_group(backend, store=prefixed("group", store), rank=rank, world_size=world)
    with team.assembled(prefixed("attar", store), rank, world) as made:
        yield made
