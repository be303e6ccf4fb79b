"""The NVIDIA GPUs of this machine, and memory on one, through the driver's own library.

No toolkit is needed. Signatures are those of the CUDA driver API
(docs.nvidia.com/cuda/cuda-driver-api), under the names that ``cuda.h`` maps them to.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.engines.runtimes import child
from attar.models.task import Array
from attar.pipeline.core.errors import StageError

LIBRARY = "libcuda.so.1"  # comes with the driver
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
SECONDS = 60  # to find the devices
TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"  # 0: never TensorFloat-32, whatever a program asks for


def explain_missing_gpu() -> str | None:
    """Return why no GPU can be used here, or None.

    A driver that finds no device refuses to start, as a broken one does.
    """
    if not has_driver():
        return f"no NVIDIA driver here ({LIBRARY} cannot be loaded)"
    try:
        return None if list_devices() else "no NVIDIA GPU here"
    except StageError as error:
        return str(error)


def check_tf32_override() -> None:
    """Raises StageError if the environment makes NVIDIA's libraries round float32."""
    if os.environ.get(TF32_OVERRIDE, "0") != "0":
        raise StageError(
            f"{TF32_OVERRIDE} = {os.environ[TF32_OVERRIDE]} makes TensorFloat-32, of 10 bits, of "
            "float32 in NVIDIA's libraries; unset it, or set it to 0"
        )


def release_torch_memory() -> None:
    """Give back the memory that torch keeps for later, of which others on the GPU see nothing."""
    if torch := sys.modules.get("torch"):
        gc.collect()
        torch.cuda.empty_cache()


def has_driver() -> bool:
    try:
        load_library()
    except OSError:
        return False
    return True


def load_library() -> ctypes.CDLL:
    return ctypes.CDLL(LIBRARY)


@cache
def list_devices() -> list[Mapping[str, Any]]:
    """Return the ``name``, ``compute`` capability and ``cuda`` version of every GPU.

    A capability reads "8.9"; the version is the latest that the driver knows.
    """
    if not has_driver():
        return []
    found: list[Mapping[str, Any]] = child.call_in_child(
        describe_devices, {}, "looking for NVIDIA GPUs", SECONDS
    )
    return found


def describe_devices(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Describe all GPUs, in a child of ``list_devices``."""
    api = CudaDriver(load_library())
    return [api.describe_device(number) for number in range(api.count_devices())]


class CudaDriver:
    """The functions of the driver's library that are needed.

    Raises StageError with the driver's message for a failure.
    """

    def __init__(self, library: Any) -> None:
        self.library = library
        self.call("cuInit", c_uint(0))

    def call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self.library, name)(*arguments):
            said = c_char_p()
            self.library.cuGetErrorString(c_int(code), byref(said))
            raise StageError(
                f"the NVIDIA driver refuses {name}: {(said.value or b'unknown error').decode()} "
                f"(CUresult {code})"
            )

    def read_int(self, name: str, *arguments: Any) -> int:
        """Return what a function writes to its first argument, an int."""
        found = c_int()
        self.call(name, byref(found), *arguments)
        return found.value

    def count_devices(self) -> int:
        return self.read_int("cuDeviceGetCount")

    def describe_device(self, number: int) -> dict[str, Any]:
        device, name = self.read_int("cuDeviceGet", c_int(number)), ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, c_int(len(name)), c_int(device))
        major, minor = (
            self.read_int("cuDeviceGetAttribute", c_int(which), c_int(device))
            for which in (MAJOR, MINOR)
        )
        version = self.read_int("cuDriverGetVersion")  # 1000 major + 10 minor
        return {
            "name": name.value.decode(),
            "compute": f"{major}.{minor}",
            "cuda": f"{version // 1000}.{version % 1000 // 10}",
        }


class NamedMemory:
    """Memory of one kind, by the tensor that lies there."""

    def __init__(self, allocate: Callable[[int], int], release: Callable[[int], None]) -> None:
        self.allocate, self.release = allocate, release
        self.held: dict[str, tuple[int, int]] = {}
        """Addresses and numbers of bytes."""

    def reserve(self, name: str, size: int) -> int:
        """Return the address of at least ``size`` bytes for a tensor of this name.

        The bytes of the last call are used again if they are enough.
        """
        address, held = self.held.get(name, (0, 0))
        if held < max(size, 1):
            self.free(name)
            address = self.allocate(max(size, 1))
            self.held[name] = (address, max(size, 1))
        return address

    def free(self, name: str) -> None:
        if name in self.held:
            self.release(self.held.pop(name)[0])

    def close(self) -> None:
        for name in list(self.held):
            self.free(name)


class GpuMemory:
    """Memory on one GPU, and a stream that copies and computes in order.

    Copies go through pinned memory of the host, so that they run beside the host, and what they
    read and write lives as long as this object. Use it from any thread, one at a time.
    """

    def __init__(self, driver: CudaDriver, context: c_void_p) -> None:
        self.driver, self.context = driver, context
        self.on_gpu = NamedMemory(self.allocate, self.release)
        self.pinned = NamedMemory(self.allocate_pinned, self.release_pinned)
        created = c_void_p()
        driver.call("cuStreamCreate", byref(created), c_uint(NON_BLOCKING))
        self.stream = created.value or 0

    def allocate(self, size: int) -> int:
        made = c_uint64()
        self.driver.call("cuMemAlloc_v2", byref(made), c_size_t(size))
        return made.value

    def release(self, address: int) -> None:
        self.driver.call("cuMemFree_v2", c_uint64(address))

    def allocate_pinned(self, size: int) -> int:
        made = c_void_p()
        self.driver.call("cuMemHostAlloc", byref(made), c_size_t(size), c_uint(0))
        return made.value or 0

    def release_pinned(self, address: int) -> None:
        self.driver.call("cuMemFreeHost", c_void_p(address))

    def make_current(self) -> None:
        """Make the GPU the current one of the calling thread."""
        self.driver.call("cuCtxSetCurrent", self.context)

    def reserve(self, name: str, size: int) -> int:
        """Return the address of at least ``size`` bytes on the GPU."""
        return self.on_gpu.reserve(name, size)

    def list_addresses(self) -> tuple[int, ...]:
        """Return where tensors lie on the GPU."""
        return tuple(address for address, _ in self.on_gpu.held.values())

    def stage(self, name: str, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """Return an array in pinned memory; its values are those of the last call."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        room = (ctypes.c_char * size).from_address(self.pinned.reserve(name, size))
        return np.ndarray(tuple(shape), dtype, memoryview(room))

    def copy_to_gpu(self, name: str, array: Array) -> int:
        """Start to copy an array to the GPU, and return its address there."""
        staged = self.stage(name, array.shape, array.dtype)
        np.copyto(staged, array)
        address = self.reserve(name, staged.nbytes)
        source, size = c_void_p(staged.ctypes.data), c_size_t(staged.nbytes)
        self.driver.call(
            "cuMemcpyHtoDAsync_v2", c_uint64(address), source, size, c_void_p(self.stream)
        )
        return address

    def copy_from_gpu(self, name: str, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """Start to copy a tensor into pinned memory; it is there from ``wait`` to the next call."""
        staged = self.stage(name, shape, dtype)
        target, size = c_void_p(staged.ctypes.data), c_size_t(staged.nbytes)
        source = c_uint64(self.reserve(name, staged.nbytes))
        self.driver.call("cuMemcpyDtoHAsync_v2", target, source, size, c_void_p(self.stream))
        return staged

    def wait(self) -> None:
        self.driver.call("cuStreamSynchronize", c_void_p(self.stream))

    def close(self) -> None:
        self.make_current()
        self.on_gpu.close()
        self.pinned.close()
        self.driver.call("cuStreamDestroy_v2", c_void_p(self.stream))


@contextmanager
def open_context(driver: CudaDriver) -> Iterator[c_void_p]:
    """Make the context that the vendor's libraries share current in this thread.

    It is the primary context of the first GPU.
    """
    device, context = driver.read_int("cuDeviceGet", c_int(0)), c_void_p()
    driver.call("cuDevicePrimaryCtxRetain", byref(context), c_int(device))
    try:
        driver.call("cuCtxSetCurrent", context)
        yield context
    finally:
        driver.call("cuDevicePrimaryCtxRelease_v2", c_int(device))
