"""The NVIDIA driver through its own library: what is asked of it, in its own types. The host plays the GPU."""

from __future__ import annotations

import numpy as np
import pytest

from attar.engines.runtimes import cuda
from attar.engines.runtimes.runtime import BuildSpec
from attar.engines.runtimes.tensorrt import TensorRt, TensorRtRtx
from attar.pipeline.core.errors import StageError
from tests.support.engines.cuda_host import HostDriver


def test_every_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "load_library", HostDriver)
    assert cuda.describe_devices({}) == [
        {"name": "NVIDIA L4", "compute": "8.9", "cuda": "13.2"},
        {"name": "NVIDIA GeForce RTX 5090", "compute": "12.0", "cuda": "13.2"},
    ]


@pytest.mark.parametrize(
    ("driver", "devices", "why"),
    [(False, [], "no NVIDIA driver here"), (True, [], "no NVIDIA GPU here"), (True, [{"name": "NVIDIA L4"}], None)],
)
def test_what_is_absent(driver: bool, devices: list[dict[str, str]], why: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "has_driver", lambda: driver)
    monkeypatch.setattr(cuda, "list_devices", lambda: devices)
    found = cuda.explain_missing_gpu()
    assert found is why if why is None else (found is not None and found.startswith(why))


def test_a_driver_that_finds_no_device_or_does_not_work_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_ERROR_NO_DEVICE is what cuInit says in a container without a GPU, or with CUDA_VISIBLE_DEVICES empty."""
    monkeypatch.setattr(cuda, "load_library", lambda: HostDriver(cuInit=100))
    monkeypatch.setattr(cuda, "list_devices", lambda: cuda.describe_devices({}))
    assert "(CUresult 100)" in str(cuda.explain_missing_gpu())
    assert TensorRtRtx().explain_unrunnable(BuildSpec()) == cuda.explain_missing_gpu()
    monkeypatch.setattr(TensorRt, "get_version", lambda self: "10.13.0.35")
    assert TensorRt().describe_environment().machine == {"gpu": "none", "compute": "none"}


def test_a_refusal_says_what_the_driver_says() -> None:
    driver = cuda.CudaDriver(HostDriver(cuMemAlloc_v2=2))
    with cuda.open_context(driver) as context:
        memory = cuda.GpuMemory(driver, context)
        with pytest.raises(StageError, match=r"cuMemAlloc_v2: .*\(CUresult 2\)"):
            memory.reserve("x", 8)


def test_memory_is_kept_while_it_is_large_enough_and_all_of_it_is_given_back() -> None:
    host = HostDriver()
    driver = cuda.CudaDriver(host)
    with cuda.open_context(driver) as context:
        memory = cuda.GpuMemory(driver, context)
        sent = np.arange(1, 7, dtype=np.float32)
        address = memory.copy_to_gpu("x", sent)
        sent[:] = 0  # the caller may go on with it
        got = memory.copy_from_gpu("x", [2, 3], np.float32)
        memory.wait()
        assert got.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert memory.reserve("x", 4) == address
        memory.stage("x", [7], np.float32)  # larger than before
        assert host.calls.count("cuMemFreeHost") == 1
        assert memory.stage("empty", [0, 3], np.int64).shape == (0, 3)
        assert memory.reserve("y", 0) != address  # an empty tensor has an address of its own
        memory.reserve("x", 25)
        assert host.calls.count("cuMemFree_v2") == 1
        memory.close()
    assert host.given == {}
    assert host.calls[-2:] == ["cuStreamDestroy_v2", "cuDevicePrimaryCtxRelease_v2"]


def test_the_context_is_released_when_its_user_fails() -> None:
    host = HostDriver()
    with pytest.raises(ZeroDivisionError), cuda.open_context(cuda.CudaDriver(host)):
        raise ZeroDivisionError
    assert host.calls[-1] == "cuDevicePrimaryCtxRelease_v2"
