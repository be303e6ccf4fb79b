"""The NVIDIA driver's library, played by the host: device memory is ordinary memory, so whatever computes there can be numpy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

NUMBERS = count(99)
STREAMS: dict[int, HostDriver] = {}
"""The driver of each stream, to which whatever computes there adds its work."""


class HostDriver:
    """Functions of ``libcuda`` with C's own pointers. It knows what it gave out, and what was not given back."""

    def __init__(self, **fails: int) -> None:
        self.fails = fails
        self.given: dict[int, Any] = {}  # on the GPU, and pinned
        self.calls: list[str] = []
        self.pending: list[Callable[[], object]] = []
        """Copies and computations, in order. None of them is done before the stream is waited for."""
        self.before: list[Callable[[], object]] = []
        """What was pending when the recording of a graph began."""
        self.graphs: dict[int, list[Callable[[], object]]] = {}
        """What was recorded, and is not given back."""

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name.startswith("cu") and name != "cuGetErrorString":
            object.__getattribute__(self, "calls").append(name)
            if code := object.__getattribute__(self, "fails").get(name):
                return lambda *arguments: code
        return found

    def cuInit(self, flags: Any) -> int:  # noqa: N802  # the vendor's name, as all below
        return 0

    def cuGetErrorString(self, code: Any, said: Any) -> int:  # noqa: N802
        said._obj.value = b"out of memory"
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device: Any, number: Any) -> int:  # noqa: N802
        device._obj.value = number.value
        return 0

    def cuDeviceGetName(self, name: Any, length: Any, device: Any) -> int:  # noqa: N802
        name.value = [b"NVIDIA L4", b"NVIDIA GeForce RTX 5090"][device.value]
        return 0

    def cuDeviceGetAttribute(self, value: Any, which: Any, device: Any) -> int:  # noqa: N802
        value._obj.value = {75: (8, 12), 76: (9, 0)}[which.value][device.value]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 13020
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802
        context._obj.value = 77
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:  # noqa: N802
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:  # noqa: N802
        return 0

    def cuStreamCreate(self, stream: Any, flags: Any) -> int:  # noqa: N802
        stream._obj.value = next(NUMBERS)
        STREAMS[stream._obj.value] = self
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        for work in self.pending:
            work()
        self.pending.clear()
        return 0

    def cuStreamDestroy_v2(self, stream: Any) -> int:  # noqa: N802
        return 0

    def cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:  # noqa: N802
        self.before, self.pending = self.pending, []
        return 0

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:  # noqa: N802
        graph._obj.value = next(NUMBERS)
        self.graphs[graph._obj.value] = self.pending
        self.pending = self.before
        return 0

    def cuGraphInstantiateWithFlags(self, made: Any, graph: Any, flags: Any) -> int:  # noqa: N802
        made._obj.value = next(NUMBERS)
        self.graphs[made._obj.value] = self.graphs[graph.value]
        return 0

    def cuGraphLaunch(self, made: Any, stream: Any) -> int:  # noqa: N802
        self.pending += self.graphs[made.value]
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:  # noqa: N802
        del self.graphs[graph.value]
        return 0

    def cuGraphExecDestroy(self, made: Any) -> int:  # noqa: N802
        del self.graphs[made.value]
        return 0

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:  # noqa: N802
        return self.give(address, size)

    def cuMemHostAlloc(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802
        return self.give(address, size)

    def give(self, address: Any, size: Any) -> int:
        room = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(room)
        self.given[address._obj.value] = room
        return 0

    def cuMemFree_v2(self, address: Any) -> int:  # noqa: N802
        del self.given[address.value]
        return 0

    def cuMemFreeHost(self, address: Any) -> int:  # noqa: N802
        del self.given[address.value]
        return 0

    def cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:  # noqa: N802
        self.pending.append(partial(ctypes.memmove, target.value, source.value, size.value))
        return 0

    def cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:  # noqa: N802
        self.pending.append(partial(ctypes.memmove, target.value, source.value, size.value))
        return 0
