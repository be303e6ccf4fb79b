"""Finished: what a bundle says of its engine when the machine that packaged it could not run that,
and another one built it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from attar.bundle.strict_model import StrictModel
from attar.models.task import Array, Arrays, Kind


class Finished(StrictModel):
    """Another machine built the engine and compared it, on the golden requests, with the graph that
    it is built from."""

    date: str
    attar: str
    """The version that finished it."""
    machine: Mapping[str, Any]
    """See ``attar.pipeline.keys.machine``; the engine's own needs are in ``engine``."""
    requests: int = Field(ge=1)
    largest_difference: float = Field(ge=0)
    """Of the engine's golden answers from the model's, as ``difference`` has it; at most what its
    runtime tolerates."""


def compute_difference(expected: Array, got: Array) -> float:
    """Largest ``|got - expected|`` over the larger of 1 and the largest ``|expected|``; infinite
    for another shape or a NaN."""
    if expected.shape != got.shape or not np.isfinite(got.astype(np.float64)).all():
        return float("inf")
    known, new = expected.astype(np.float64), got.astype(np.float64)
    return float(np.abs(new - known).max() / max(1.0, float(np.abs(known).max())))


def limit_difference(kind: Kind, tolerance: float) -> float:
    """Return how far two answers of this kind may be apart: another token is another answer."""
    return 0.0 if kind == "tokens" else tolerance


def compare_with_graph(golden: Arrays) -> dict[str, float]:
    """By output: the ``difference`` of the engine's golden answers from the model's."""
    outputs = [name.removeprefix("engine.") for name in golden if name.startswith("engine.")]
    return {
        name: compute_difference(golden[f"model.{name}"], golden[f"engine.{name}"])
        for name in outputs
    }
