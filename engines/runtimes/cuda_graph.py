"""CUDA graphs: the kernels of a call, recorded once and then started together.

Signatures are those of the CUDA driver API, section "Graph Management".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from ctypes import byref, c_int, c_uint64, c_void_p

from attar.engines.runtimes.cuda import CudaDriver
from attar.pipeline.core.errors import StageError

THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on as they want


class RecordedCall:
    """What a call of an engine starts on a stream, recorded for one set of shapes and addresses.

    The first call of a new set starts its kernels one by one, for TensorRT prepares for new shapes
    then. The second is recorded, and it and all after it start the recording. There is one at a
    time, for it refers to the scratch memory of the engine's only context.
    """

    def __init__(self, driver: CudaDriver, stream: int) -> None:
        self.driver, self.stream = driver, c_void_p(stream)
        self.key: Hashable = None
        self.recording: c_void_p | None = None

    def start(self, key: Hashable, enqueue: Callable[[], bool]) -> bool:
        """Start a call with the shapes and addresses of ``key``, and return whether that was done.

        ``enqueue`` starts its kernels. Raises StageError if they cannot be recorded.
        """
        if key != self.key:
            self.close()
            self.key = key if (started := enqueue()) else None
            return started
        if self.recording is None:
            self.recording = self.record(enqueue)
        self.driver.call("cuGraphLaunch", self.recording, self.stream)
        return True

    def record(self, enqueue: Callable[[], bool]) -> c_void_p:
        graph, made = c_void_p(), c_void_p()
        try:
            self.driver.call("cuStreamBeginCapture_v2", self.stream, c_int(THREAD_LOCAL))
            started = enqueue()
            self.driver.call("cuStreamEndCapture", self.stream, byref(graph))
            if not started:
                raise StageError("TensorRT did not start it")
            self.driver.call("cuGraphInstantiateWithFlags", byref(made), graph, c_uint64(0))
        except StageError as error:
            raise StageError(
                f"the engine cannot be recorded as a CUDA graph: {error}; leave cuda_graphs out of "
                "its target"
            ) from error
        finally:
            if graph.value:
                self.driver.call("cuGraphDestroy", graph)
        return made

    def close(self) -> None:
        """Let the recording go."""
        if self.recording is not None:
            self.driver.call("cuGraphExecDestroy", self.recording)
        self.key = self.recording = None
