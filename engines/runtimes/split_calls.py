"""A graph is called with as many samples as the memory of a GPU holds, whichever library runs it.

Of the first large batch a few samples are measured, and then as many are taken at once as fit into
what is free, but for a reserve. Where that was too many they are halved. Both is remembered as long
as the process runs, so that a network that is opened again, or validated after every epoch, is not
tried anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import numpy as np

from attar.engines.runtimes.cuda import release_torch_memory
from attar.models.task import Array, Arrays, Predict
from attar.pipeline.core.errors import StageError

TRIED = 8
"""Samples whose memory is measured: few, and enough that what a call takes in any case is little
beside them."""
RESERVE = 0.2
"""The share of the free memory that is left, for what larger batches take besides their samples,
such as the scratch memory of another algorithm."""
LACKS_MEMORY = (
    "the GPU has no memory left for the network: stop what else runs on it (nvidia-smi "
    "lists it), set a smaller batch or a larger accumulate, or use --device cpu"
)
WORDS = (
    "out of memory",  # CUDA's own, and torch's allocator
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuSOLVER, cuDNN 8
    "DEVICE_ALLOCATION_FAILED",  # cuDNN 9
    "Failed to allocate memory for requested buffer",  # ONNX Runtime
    "is smaller than requested bytes",  # ONNX Runtime, where its memory is limited
)
"""What libraries say where a GPU has no memory for something."""

SampleShapes = tuple[tuple[str, tuple[int, ...]], ...]
HELD: dict[Hashable, dict[SampleShapes, int]] = {}
"""How many samples of these shapes a GPU holds in one call, by network."""


class FreeMemory(Protocol):
    """What is known of the memory of one GPU."""

    def measure_peak(self, call: Callable[[], object]) -> int:
        """Return the bytes that a call took at most, besides those that were taken before."""

    def count_free(self) -> int:
        """Return the bytes that a call may take."""


class SplitCalls:
    """A graph that is called with parts of a batch where the memory does not hold all of it.

    Samples of a network in evaluation mode do not depend on each other.
    """

    def __init__(
        self, graph: Predict, network: Hashable = None, memory: FreeMemory | None = None
    ) -> None:
        """``network`` tells those apart that need other memory; None: nothing is known of it.

        Without ``memory`` a batch is tried whole.
        """
        self.graph, self.memory = graph, memory
        self.held = {} if network is None else HELD.setdefault(network, {})

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Raises StageError if there is no memory for one sample."""
        samples, shapes = len(next(iter(inputs.values()))), describe_samples(inputs)
        while True:
            memory = None if shapes in self.held or samples <= TRIED else self.memory
            size = TRIED if memory else min(self.held.get(shapes, samples), samples)
            try:
                if memory is None:
                    return self.call_parts(inputs, size, samples)
                self.held[shapes] = self.measure_size(inputs, memory)
            except (RuntimeError, StageError) as error:
                if not is_out_of_memory(error):
                    raise
                if size <= 1:
                    raise StageError(LACKS_MEMORY) from error
            else:
                continue
            self.held[shapes] = size // 2  # after the error, whose frames hold what was computed
            release_torch_memory()

    def measure_size(self, inputs: Arrays, memory: FreeMemory) -> int:
        """Return the largest power of two that fits, from what a few samples take."""
        few = take_part(inputs, 0, TRIED)
        taken = max(1, memory.measure_peak(lambda: self.graph(few)))
        fits = int((1 - RESERVE) * memory.count_free()) * TRIED // taken
        return 1 << max(1, fits).bit_length() - 1

    def call_parts(self, inputs: Arrays, size: int, samples: int) -> dict[str, Array]:
        if size == samples:
            return self.graph(inputs)
        starts = range(0, samples, size)
        parts = [self.graph(take_part(inputs, start, size)) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def describe_samples(inputs: Arrays) -> SampleShapes:
    """Return the shape of a sample, by the name of the input."""
    return tuple((name, array.shape[1:]) for name, array in inputs.items())


def take_part(inputs: Arrays, start: int, size: int) -> Arrays:
    return {name: array[start : start + size] for name, array in inputs.items()}


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU had no memory for what failed."""
    said = str(error)
    return type(error).__name__ == "OutOfMemoryError" or any(word in said for word in WORDS)
