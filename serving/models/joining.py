"""Joining: which requests may share a call, so that no answer depends on the company."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from attar.bundle import golden
from attar.bundle.engines import EnginePair, list_engines
from attar.bundle.finished import compute_difference
from attar.bundle.manifest import BY_CALL, MAX_TOLERANCE, Manifest
from attar.models.task import Array, Arrays, Predict

COARSE = ("bf16", "fp16")
"""Precisions in which the order of a sum, which depends on the batch size, shows in the answers."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Joining:
    """The requests that may share a call of an engine."""

    joins: bool
    """Whether rows of different requests may share a call at all."""
    apart: int | None = None
    """Requests of fewer rows share none with those of as many or more, which another engine answers
    otherwise. None: a batch goes to the engine for its rows, whoever is in it."""


JOIN_ALL = Joining(joins=True)


def find_joining(
    predict: Predict, requests: Arrays, manifest: Manifest, rows: tuple[int, int]
) -> Joining:
    """Return what may be joined so that a request gets the answer that it would get alone.

    ``rows``: fewest and most of a call.
    """
    for part, engine in zip(manifest.parts, list_engines(predict), strict=True):
        precision = part.engine.precision
        if precision in BY_CALL:
            return tell_not_joined(manifest, f"{precision} rounds by the whole call")
        effect = measure_batch_effect(engine, engine, requests, rows)
        if effect > limit_effect(manifest, precision):
            return tell_not_joined(manifest, f"that moves answers by {effect:.2g}")
    if not isinstance(predict, EnginePair):
        return JOIN_ALL
    effect = measure_batch_effect(predict.single, predict.batch, requests, rows)
    if effect <= min(limit_effect(manifest, part.engine.precision) for part in manifest.parts):
        return JOIN_ALL
    log.warning(
        "%s: its engines answer otherwise, by %.2g: a request of %d rows or more goes to the one "
        "for batches, smaller ones never do, whoever shares their call",
        manifest.name,
        effect,
        predict.rows,
    )
    return Joining(joins=True, apart=predict.rows)


def tell_not_joined(manifest: Manifest, why: str) -> Joining:
    log.warning("%s: requests are not joined to batches: %s", manifest.name, why)
    return Joining(joins=False)


def limit_effect(manifest: Manifest, precision: str) -> float:
    """Return how far the company may move an answer, relative to its magnitude."""
    if any(output.kind == "tokens" for output in manifest.outputs.values()):
        return 0.0  # another token is another answer
    return MAX_TOLERANCE if precision in COARSE else manifest.golden.tolerance


def measure_batch_effect(
    small: Predict, large: Predict, requests: Arrays, rows: tuple[int, int]
) -> float:
    """Return the difference between the answers of one engine in small calls and of another, or
    the same, in one large call, relative to their magnitude."""
    few, many = rows
    inputs = tile_rows(requests, many - many % few)
    whole, apart = large(inputs), golden.predict_in_batches(small, inputs, few)
    return max(compute_difference(whole[name], apart[name]) for name in whole)


def tile_rows(requests: Arrays, rows: int) -> dict[str, Array]:
    """Return so many rows of the golden requests, from the first again where there are fewer."""
    return {name: array[np.arange(rows) % len(array)] for name, array in requests.items()}
