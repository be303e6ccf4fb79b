"""An engine that records its calls, and what asks a batcher for answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from attar.models.task import Array, Arrays, Predict
from attar.pipeline.core.errors import StageError
from attar.serving.models.batcher import Batcher, BatchLimits
from attar.serving.models.calls import QueuedRequest

PROBE = {"x": np.zeros((1, 1))}


class RecordingEngine:
    """Twice ``x``; knows the rows of every call. Refuses a 13 and, once broken, everything."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[int] = []
        self.seconds, self.broken = seconds, False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        self.gate.wait(10)
        time.sleep(self.seconds)
        self.calls.append(len(inputs["x"]))
        if self.broken or 13 in inputs["x"]:
            raise StageError("13 is out of bounds")
        return {"y": np.asarray(inputs["x"] * 2)}


def run_coroutine(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def make_batcher(*engines: Predict, **limits: Any) -> Batcher:
    return Batcher(engines, BatchLimits(**limits), PROBE, lambda batch: None)


def submit(to: Batcher, *values: float, width: int = 1, seconds: float = 10) -> QueuedRequest:
    return to.submit({"x": np.tile(np.array(values)[:, None], width)}, len(values), seconds)


async def gather_answers(works: Sequence[QueuedRequest]) -> list[Any]:
    """The first column of each, or its exception."""
    found = await asyncio.gather(*(work.future for work in works), return_exceptions=True)
    return [each if isinstance(each, BaseException) else each["y"][:, 0].tolist() for each in found]
