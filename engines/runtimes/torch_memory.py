"""What to do when PyTorch has no memory left on a GPU, or no kernels for it."""

from __future__ import annotations

import numpy as np
import torch

from attar.models.task import Array, Arrays, Predict
from attar.pipeline.core.errors import StageError

NO_KERNEL = "no kernel image"
"""CUDA's words for cudaErrorNoKernelImageForDevice."""


class SplitCalls:
    """A graph that is called with parts of a batch where the memory does not hold all of it.

    The size that was held is remembered. Samples of a network in evaluation mode do not depend on
    each other.
    """

    def __init__(self, graph: Predict) -> None:
        self.graph = graph
        self.most: int | None = None

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Raises StageError if there is no memory for one sample."""
        samples = len(next(iter(inputs.values())))
        while True:
            size = min(self.most or samples, samples)
            try:
                return self.call_parts(inputs, size, samples)
            except torch.OutOfMemoryError as error:
                if size <= 1:
                    raise StageError(explain_failure(error)) from error
            self.most = size // 2
            torch.cuda.empty_cache()

    def call_parts(self, inputs: Arrays, size: int, samples: int) -> dict[str, Array]:
        if size == samples:
            return self.graph(inputs)
        parts = [
            self.graph({name: array[start : start + size] for name, array in inputs.items()})
            for start in range(0, samples, size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def explain_failure(error: Exception) -> str:
    """Return what the GPU lacks for a call that failed, or an empty string if it is not that."""
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU has no memory left for the network: stop what else runs on it (nvidia-smi "
            "lists it), set a smaller batch or a larger accumulate, or use --device cpu"
        )
    if NO_KERNEL in str(error):
        return (
            f"PyTorch {torch.__version__} has no kernels for this GPU: install a build for its "
            "compute capability (torch.cuda.get_arch_list() names those of this one), or use "
            "--device cpu"
        )
    return ""
