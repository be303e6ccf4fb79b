"""A GPU without memory for a batch: as many samples are asked at once as it holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from attar.engines.runtimes import split_calls
from attar.engines.runtimes.split_calls import SplitCalls, is_out_of_memory
from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import StageError

BYTES = 100
"""What the small GPU needs for a sample."""


class SmallGpu:
    """Doubles ``x``, of at most ``room`` samples at once, and is thought to have ``free`` bytes."""

    def __init__(self, room: int, free: int = 0, error: Exception | None = None) -> None:
        self.room, self.free, self.calls = room, free, list[int]()
        self.error = error or RuntimeError("CUDA out of memory")

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        self.calls.append(len(inputs["x"]))
        if len(inputs["x"]) > self.room:
            raise self.error
        return {"y": np.asarray(inputs["x"], np.float32) * 2}

    def measure_peak(self, call: Callable[[], object]) -> int:
        call()
        return BYTES * self.calls[-1]

    def count_free(self) -> int:
        return self.free

    def ask(self, samples: int, split: SplitCalls) -> list[int]:
        """Return the sizes of the calls for so many samples, whose answers are right."""
        self.calls.clear()
        x = np.arange(samples, dtype=np.float32)
        assert split({"x": x})["y"].tolist() == (2 * x).tolist()
        return self.calls.copy()


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_calls, "HELD", {})


def test_a_batch_is_halved_until_there_is_memory_and_that_is_remembered() -> None:
    gpu = SmallGpu(room=3)
    split = SplitCalls(gpu, "teacher")
    assert gpu.ask(10, split) == [10, 5, 2, 2, 2, 2, 2]
    assert gpu.ask(5, split) == [2, 2, 1]
    assert gpu.ask(5, SplitCalls(gpu, "teacher")) == [2, 2, 1]  # opened again
    assert gpu.ask(3, SplitCalls(gpu, "student")) == [3]


@pytest.mark.parametrize(
    ("free", "sizes"),
    [
        (100 * BYTES, [8, 64, 36]),  # 80 but for the reserve
        (1000 * BYTES, [8, 100]),
        (10 * BYTES, [8, *[8] * 12, 4]),
        (0, [8, *[1] * 100]),
    ],
)
def test_the_largest_power_of_two_that_fits_is_asked_at_once(free: int, sizes: list[int]) -> None:
    gpu = SmallGpu(room=1000, free=free)
    split = SplitCalls(gpu, "teacher", gpu)
    assert gpu.ask(100, split) == sizes
    assert gpu.ask(100, split) == sizes[1:]  # it is measured once
    assert gpu.ask(100, SplitCalls(gpu, "teacher", gpu)) == sizes[1:]


def test_a_batch_that_is_small_is_not_measured() -> None:
    gpu = SmallGpu(room=8, free=0)
    assert gpu.ask(8, SplitCalls(gpu, "teacher", gpu)) == [8]


def test_samples_of_another_shape_are_measured_anew() -> None:
    gpu = SmallGpu(room=1000, free=100 * BYTES)
    split = SplitCalls(gpu, "teacher", gpu)
    gpu.ask(100, split)
    gpu.calls.clear()
    split({"x": np.zeros((100, 2), np.float32)})
    assert gpu.calls == [8, 64, 36]


def test_what_was_thought_to_fit_is_halved_too() -> None:
    gpu = SmallGpu(room=20, free=1000 * BYTES)
    split = SplitCalls(gpu, "teacher", gpu)
    assert gpu.ask(64, split) == [8, 64, 32, *[16] * 4]
    assert gpu.ask(32, split) == [16, 16]


def test_no_memory_for_the_samples_that_are_measured() -> None:
    gpu = SmallGpu(room=5, free=1000 * BYTES)
    split = SplitCalls(gpu, "teacher", gpu)
    assert gpu.ask(10, split) == [8, 4, 4, 2]


def test_no_memory_for_one_sample() -> None:
    with pytest.raises(StageError, match="no memory left"):
        SplitCalls(SmallGpu(room=0))({"x": np.zeros(4, np.float32)})


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 285081600",
        "Available memory of 1024 is smaller than requested bytes of 2048",
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, StageError])  # what torch raises, and attar for ONNX Runtime
def test_what_libraries_say_of_a_gpu_without_memory(said: str, kind: type[Exception]) -> None:
    gpu = SmallGpu(room=2, error=kind(said))
    assert gpu.ask(4, SplitCalls(gpu)) == [4, 2, 2]


def test_another_error_is_no_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    gpu = SmallGpu(room=2, error=RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal"):
        SplitCalls(gpu)({"x": np.zeros(4, np.float32)})
    assert gpu.calls == [4]
