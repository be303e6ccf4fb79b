"""The statistics of a model, for the protocol's extension."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from attar.models.task import Array
from attar.serving.models.observer import ObservedModel, Observer
from attar.serving.protocol.request import InferenceRequest, RequestTiming

PHASES = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)


class PhaseTotal:
    """A number of events, and their nanoseconds."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = self.ns = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def to_json(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class Statistics(Observer):
    """The statistics of one model.

    The transport splits and encodes the answers, so ``compute_output`` stays 0.
    """

    def __init__(self) -> None:
        self.phases = {name: PhaseTotal() for name in PHASES}
        self.batches: dict[int, PhaseTotal] = defaultdict(PhaseTotal)
        self.inferences = self.last = 0

    def on_response(
        self,
        model: ObservedModel,
        infer: InferenceRequest,
        outputs: Mapping[str, Array],
        times: RequestTiming,
    ) -> None:
        self.inferences += infer.rows
        self.last = time.time_ns() // 1_000_000
        spent = {
            "compute_input": times.prepare,
            "queue": times.queue,
            "compute_infer": times.compute,
        }
        for name, ns in spent.items():
            self.phases[name].add(ns)
        self.phases["success"].add(sum(spent.values()))

    def on_error(self, model: ObservedModel, error: BaseException, nanoseconds: int) -> None:
        self.phases["fail"].add(nanoseconds)

    def on_batch(self, model: ObservedModel, rows: int, nanoseconds: int) -> None:
        self.batches[rows].add(nanoseconds)

    def to_json(self, name: str, version: str) -> dict[str, Any]:
        """Return an entry of ``model_stats``."""
        nothing = PhaseTotal().to_json()
        return {
            "name": name,
            "version": version,
            "last_inference": self.last,
            "inference_count": self.inferences,
            "execution_count": sum(total.count for total in self.batches.values()),
            "inference_stats": {phase: total.to_json() for phase, total in self.phases.items()},
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": nothing,
                    "compute_infer": total.to_json(),
                    "compute_output": nothing,
                }
                for rows, total in sorted(self.batches.items())
            ],
        }
