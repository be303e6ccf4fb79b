"""CUDA graphs on a driver that the host plays: when a call is recorded, and what goes wrong."""

from __future__ import annotations

import ctypes

import pytest

from attar.engines.runtimes.cuda import CudaDriver, GpuMemory
from attar.engines.runtimes.cuda_graph import RecordedCall
from attar.pipeline.core.errors import StageError
from tests.support.engines.cuda_host import HostDriver


class Calls:
    """A stream on which work is started: each piece notes its name when it is done."""

    def __init__(self, host: HostDriver) -> None:
        self.host, self.started, self.done = host, list[str](), list[str]()
        driver = CudaDriver(host)
        self.memory = GpuMemory(driver, ctypes.c_void_p(77))
        self.recorded = RecordedCall(driver, self.memory.stream)

    def ask(self, name: str, starts: bool = True) -> bool:
        def enqueue() -> bool:
            self.started.append(name)
            if starts:
                self.host.pending.append(lambda: self.done.append(name))
            return starts

        started = self.recorded.start(name, enqueue)
        self.memory.wait()
        return started


def test_the_second_call_of_a_kind_is_recorded_and_the_third_starts_the_recording() -> None:
    calls = Calls(HostDriver())
    for name in ("a", "a", "a", "b", "a", "a"):
        assert calls.ask(name)
    assert calls.done == ["a", "a", "a", "b", "a", "a"]
    assert calls.started == ["a", "a", "b", "a", "a"]
    assert len(calls.host.graphs) == 1
    calls.recorded.close()
    assert calls.host.graphs == {}


def test_a_call_that_was_not_started_is_not_recorded_next() -> None:
    calls = Calls(HostDriver())
    assert not calls.ask("a", starts=False)
    assert calls.ask("a")
    assert "cuStreamBeginCapture_v2" not in calls.host.calls


@pytest.mark.parametrize("name", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_what_cannot_be_recorded_is_told(name: str) -> None:
    calls = Calls(HostDriver(**{name: 900}))
    calls.ask("a")
    with pytest.raises(StageError, match=rf"refuses {name}: .*CUresult 900\); leave cuda_graphs out"):
        calls.ask("a")
    assert calls.host.graphs == {}


def test_an_engine_that_does_not_start_while_it_is_recorded() -> None:
    calls = Calls(HostDriver())
    calls.ask("a")
    with pytest.raises(StageError, match="did not start it; leave cuda_graphs out"):
        calls.ask("a", starts=False)
    assert calls.host.graphs == {}
