"""A GPU without memory for a batch: it is asked in parts, and what it lacks is told."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attar.engines.runtimes import cuda
from attar.engines.runtimes.torch import build_network, check_network, make_graphs
from attar.engines.runtimes.torch_memory import SplitCalls
from attar.models.generation import FOLLOW, MODEL, PATH
from attar.models.task import Array, Arrays, load_task
from attar.pipeline.core.errors import StageError
from tests.support.tasks import sequences
from tests.support.tasks.smoke import DIGITS


class SmallGpu:
    """Doubles ``x``, of at most so many samples at once."""

    def __init__(self, room: int) -> None:
        self.room, self.calls = room, list[int]()

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        self.calls.append(len(inputs["x"]))
        if len(inputs["x"]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"y": np.asarray(inputs["x"], np.float32) * 2}


def test_a_batch_is_halved_until_there_is_memory_and_that_is_remembered() -> None:
    gpu = SmallGpu(room=3)
    split, x = SplitCalls(gpu), np.arange(10, dtype=np.float32)
    assert split({"x": x})["y"].tolist() == (2 * x).tolist()
    assert gpu.calls == [10, 5, 2, 2, 2, 2, 2]
    gpu.calls.clear()
    assert split({"x": x[:5]})["y"].tolist() == (2 * x[:5]).tolist()
    assert gpu.calls == [2, 2, 1]


def test_no_memory_for_one_sample() -> None:
    with pytest.raises(StageError, match="no memory left"):
        SplitCalls(SmallGpu(room=0))({"x": np.zeros(4, np.float32)})


def test_a_network_that_generates_is_asked_in_halves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    task, network = load_task(sequences.REVERSAL), build_network(sequences.TRANSLATOR, sequences.OPTIONS)
    whole: Any = network.start
    inputs = task.example(np.random.default_rng(0), batch=4)
    (name,), graphs = task.outputs, make_graphs(network, task)
    path = graphs[MODEL](inputs)[name]
    expected = np.asarray(graphs[FOLLOW]({**inputs, PATH: path})[name], np.float32)

    def start(*given: Tensor) -> object:
        if len(given[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*given)

    monkeypatch.setattr(network, "start", start)
    graphs = make_graphs(network, task)
    assert graphs[MODEL](inputs)[name].tolist() == path.tolist()
    got = graphs[FOLLOW]({**inputs, PATH: path})[name]
    assert np.abs(np.asarray(got, np.float32) - expected).max() < 1e-5


class Failing(nn.Module):
    def __init__(self, error: RuntimeError) -> None:
        super().__init__()
        self.error = error

    def forward(self, image: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "no memory left for the network"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "no kernels for this GPU"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "cannot read inputs of Digits"),
    ],
)
def test_what_a_gpu_lacks_is_told_apart_from_a_wrong_network(error: RuntimeError, said: str) -> None:
    with pytest.raises(StageError, match=said):
        check_network(Failing(error), load_task(DIGITS))


def test_the_memory_that_torch_keeps_is_given_back_if_there_is_a_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    emptied = SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: calls.append("emptied")))
    monkeypatch.setitem(sys.modules, "torch", emptied)
    cuda.release_torch_memory()
    assert calls == ["emptied"]
    monkeypatch.delitem(sys.modules, "torch")
    cuda.release_torch_memory()
    assert calls == ["emptied"]
