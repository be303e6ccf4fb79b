"""Instances: how many calls of an engine run at the same time, and how many times it is opened
for them."""

from __future__ import annotations

from attar.bundle.manifest import EngineRequirements
from attar.engines.runtimes.onnxruntime import NVIDIA
from attar.pipeline.keys import machine

ON_GPU = ("tensorrt", "tensorrt-rtx")


def runs_on_gpu(needs: EngineRequirements) -> bool:
    return needs.runtime in ON_GPU or needs.provider in NVIDIA


def count_instances(needs: EngineRequirements, threads: int) -> int:
    """Return how many calls run at a time: as many as there are cores for their threads. A GPU runs
    one after another, so cores say nothing about it."""
    return 1 if runs_on_gpu(needs) else max(1, machine.count_cores() // threads)


def is_shareable(needs: EngineRequirements, threads: int) -> bool:
    """Whether one opened engine answers several calls at the same time as quickly as several would,
    with its weights in memory once.

    A session of ONNX Runtime with one thread computes in the thread that calls it. With more, calls
    would wait for its threads.
    """
    return needs.runtime == "onnxruntime" and threads == 1
