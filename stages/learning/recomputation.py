"""Gradient checkpointing: of its repeated blocks a network keeps the inputs alone, and computes the
rest again in the backward pass (Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from attar.pipeline.core.errors import StageError


def recompute_blocks(module: nn.Module) -> nn.Module:
    """Let each repeated block be computed again in the backward pass, and return the module.

    Gradients stay what they are: the random numbers of a block are drawn again alike, and batch
    statistics are counted once. Names stay, too. Raises StageError for a network without such
    blocks.
    """
    blocks = list(list_blocks(module))
    if not blocks:
        raise StageError(
            f"{type(module).__name__} has no nn.ModuleList or nn.Sequential of blocks, so there is "
            "nothing to compute again; set checkpointing = false, or put its repeated layers into "
            "one"
        )
    for block in blocks:
        block.forward = partial(call_block, block, block.forward)  # a wrapper would rename weights
    return module


def list_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the entries of the outermost lists and sequences that have layers of their own."""
    is_list = isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1
    for child in module.children():
        if not is_list:
            yield from list_blocks(child)
        elif any(True for _ in child.children()):
            yield child


def call_block(block: nn.Module, forward: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Call the block, and keep nothing for the backward pass but what it is given."""
    if not torch.is_grad_enabled():
        return forward(*args, **settings)
    contexts = partial(make_contexts, block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **settings)


def make_contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first call of a block and of the second."""
    return nullcontext(), keep_statistics(block)


@contextmanager
def keep_statistics(block: nn.Module) -> Iterator[None]:
    """Leave the running statistics of the norms in a block as they are."""
    norms = [layer for layer in block.modules() if isinstance(layer, _NormBase)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    known = [count.clone() for count in counts]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:  # torch leaves by an exception when it has what it needs
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for count, before in zip(counts, known, strict=True):
            count.copy_(before)
