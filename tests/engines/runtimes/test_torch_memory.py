"""A GPU without memory for a batch: what PyTorch says of it, and of one that it has no kernels for."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attar.engines.runtimes import cuda, split_calls
from attar.engines.runtimes.torch import build_network, check_network, make_graphs, make_predictor
from attar.engines.runtimes.torch_memory import TorchMemory
from attar.models.generation import FOLLOW, MODEL, PATH
from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Weights
from tests.support.tasks import sequences
from tests.support.tasks.smoke import DIGITS, floats


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_calls, "HELD", {})


def test_torch_is_asked_for_what_a_call_takes_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = iter([0, 700])
    counters = {"memory_allocated": 300, "memory_reserved": 1000, "mem_get_info": (5000, 9000)}
    for name, value in counters.items():
        monkeypatch.setattr(torch.cuda, name, lambda place, value=value: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda place: next(peak))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda place: next(peak))
    memory, calls = TorchMemory(torch.device("cuda")), list[int]()
    assert memory.measure_peak(lambda: calls.append(1)) == 400
    assert calls == [1]
    assert memory.count_free() == 5700


def test_parts_of_a_batch_are_answered_as_the_whole_but_for_rounding(digits_weights: Weights) -> None:
    task, module = load_task(DIGITS), digits_weights.load()
    inputs = task.example(np.random.default_rng(0), batch=64)
    whole = floats(make_predictor(module, task)(inputs)["logits"])
    for size in (1, 2, 8, 32):
        split = make_predictor(module, task)
        assert isinstance(split, split_calls.SplitCalls)
        split.held[split_calls.describe_samples(inputs)] = size
        assert np.abs(floats(split(inputs)["logits"]) - whole).max() < 1e-5 * np.abs(whole).max()


def test_what_was_held_is_remembered_of_a_network_that_is_opened_again(digits_weights: Weights) -> None:
    """As after an epoch, or in another stage."""
    task = load_task(DIGITS)
    inputs = task.example(np.random.default_rng(0), batch=6)
    one, other = (make_predictor(digits_weights.load(), task) for _ in range(2))
    assert isinstance(one, split_calls.SplitCalls)
    assert isinstance(other, split_calls.SplitCalls)
    one.held[split_calls.describe_samples(inputs)] = 2
    assert other.held == one.held
    narrow = make_predictor(build_network("attar.models.networks.residual:residual", {"width": 4}), task)
    assert isinstance(narrow, split_calls.SplitCalls)
    assert narrow.held == {}


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


class FailingNetwork(nn.Module):
    def __init__(self, error: RuntimeError) -> None:
        super().__init__()
        self.error = error

    def forward(self, image: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "no memory left for the network"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "no memory left"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "no kernels for this GPU"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "cannot read inputs of Digits"),
    ],
)
def test_what_a_gpu_lacks_is_told_apart_from_a_wrong_network(error: RuntimeError, said: str) -> None:
    with pytest.raises(StageError, match=said):
        check_network(FailingNetwork(error), load_task(DIGITS))


def test_the_memory_that_torch_keeps_is_given_back_if_there_is_a_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    emptied = SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: calls.append("emptied")))
    monkeypatch.setitem(sys.modules, "torch", emptied)
    cuda.release_torch_memory()
    assert calls == ["emptied"]
    monkeypatch.delitem(sys.modules, "torch")
    cuda.release_torch_memory()
    assert calls == ["emptied"]
