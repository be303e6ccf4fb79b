"""What to do when PyTorch has no memory left on a GPU, or no kernels for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from attar.engines.runtimes.split_calls import LACKS_MEMORY, SplitCalls, is_out_of_memory
from attar.models.task import Predict

NO_KERNEL = "no kernel image"
"""CUDA's words for cudaErrorNoKernelImageForDevice."""


class TorchMemory:
    """The memory of one GPU that torch can use."""

    def __init__(self, place: torch.device) -> None:
        self.place = place

    def measure_peak(self, call: Callable[[], object]) -> int:
        """Return the bytes that a call took at most, besides those that were taken before."""
        torch.cuda.reset_peak_memory_stats(self.place)
        before = torch.cuda.memory_allocated(self.place)
        call()
        return torch.cuda.max_memory_allocated(self.place) - before

    def count_free(self) -> int:
        """Return the bytes that are free, and those that torch keeps for later."""
        free, _ = torch.cuda.mem_get_info(self.place)
        kept = torch.cuda.memory_reserved(self.place) - torch.cuda.memory_allocated(self.place)
        return free + kept


def split_calls(module: nn.Module, name: str, graph: Predict) -> SplitCalls:
    """Return a graph of a network that takes of a batch what the memory holds.

    Networks of one class with parameters of the same shapes are taken for one.
    """
    parameters = list(module.parameters())
    place = parameters[0].device if parameters else torch.device("cpu")
    shapes = tuple(tuple(parameter.shape) for parameter in parameters)
    memory = TorchMemory(place) if place.type == "cuda" else None
    return SplitCalls(graph, (type(module), name, shapes), memory)


def explain_failure(error: Exception) -> str:
    """Return what the GPU lacks for a call that failed, or an empty string if it is not that."""
    if is_out_of_memory(error):
        return LACKS_MEMORY
    if NO_KERNEL in str(error):
        return (
            f"PyTorch {torch.__version__} has no kernels for this GPU: install a build for its "
            "compute capability (torch.cuda.get_arch_list() names those of this one), or use "
            "--device cpu"
        )
    return ""
