"""Batch statistics of several processes: of the samples of each, or of those of all GPUs."""

from __future__ import annotations

import warnings
from typing import cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from attar.pipeline.core.errors import StageError
from attar.stages.learning.compute import Compute

FEW_SAMPLES = 16
"""With fewer samples, batch normalization trains worse (Wu and He 2018, arXiv:1803.08494, figure
1)."""


def synchronize_norms(module: nn.Module, compute: Compute, wanted: bool | None) -> nn.Module:
    """Return the module, or one with the same weights whose statistics are those of all GPUs.

    ``wanted``: None synchronizes where one process alone sees few samples and torch can do it,
    which is between GPUs. Raises StageError where it is wanted and cannot be done; warns of few
    samples that each process is left with.
    """
    if compute.team.world == 1 or not has_batch_statistics(module):
        return module
    device, has_few = compute.accelerator.device.type, compute.part <= FEW_SAMPLES
    if wanted and device != "cuda":
        raise StageError(
            "synchronize_norms = true needs GPUs, for torch's SyncBatchNorm runs on nothing else, "
            f"and this is the {device}; leave it out, set a larger batch, or take a network "
            "without batch normalization"
        )
    if wanted or (wanted is None and has_few and device == "cuda"):
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(module))  # type: ignore[no-untyped-call]  # torch's has no types
    if has_few and compute.team.leads:
        warnings.warn(describe_few(compute), stacklevel=2)
    return module


def has_batch_statistics(module: nn.Module) -> bool:
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def describe_few(compute: Compute) -> str:
    return (
        f"batch normalization sees {compute.part} samples at once ({compute.team.world} processes, "
        f"accumulate = {compute.accumulate}), and trains worse with {FEW_SAMPLES} or fewer; set a "
        "larger batch, a smaller accumulate or, on GPUs, synchronize_norms = true"
    )
