"""Compilation: a training calls its network through ``torch.compile``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from attar.pipeline.core.errors import StageError


def compile_network(module: nn.Module) -> nn.Module:
    """Return what computes the same as the module, with its parameters, and is compiled when it is
    called. The module stays as it is: so do the names of its weights."""
    return cast(nn.Module, torch.compile(module))


@contextmanager
def compiling(network_name: str) -> Iterator[None]:
    """Let nothing that is to be compiled in here run as it is instead.

    Raises StageError if this machine cannot compile the network.
    """
    from torch._dynamo import config
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    try:
        with config.patch(fail_on_recompile_limit_hit=True):
            yield
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        reason = str(error).strip().partition("\n")[0]
        raise StageError(
            f"torch.compile cannot compile the {network_name}: {reason}; it needs a C++ compiler "
            "on a CPU and Triton on a GPU, and a network that it can follow; set compile = false"
        ) from error
