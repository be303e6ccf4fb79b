"""Pair: an engine for single samples and one for batches in one bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attar.bundle.manifest import BatchEngine
from attar.bundle.stored_verdict import StoredVerdict
from attar.proof.ledger.ledger import Ledger
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.stages.package.proven import ProvenEngine, build_lineage, describe_requirements

ENGINE = "engine"
SHARED = "onnx"
"""The hop that both ledgers timed, beside which their engines are compared."""


def select_different(proven: Sequence[ProvenEngine]) -> Sequence[ProvenEngine]:
    """Return the engines without one that is the first, byte for byte."""
    first = proven[0]
    return [first, *(each for each in proven[1:] if each.engine.digest != first.engine.digest)]


def describe_batch_engine(packed: Sequence[ProvenEngine]) -> BatchEngine | None:
    """Return what a manifest says of the second engine; None if there is none."""
    if len(packed) == 1:
        return None
    batch = packed[1]
    ledgers = [ledger_from_json(each.evidence.facts) for each in packed]
    return BatchEngine(
        rows=find_least_rows(ledgers[0], ledgers[1]),
        engine=describe_requirements(batch.engine.facts),
        verdict=StoredVerdict.model_validate(batch.verdict.facts),
        ledger=batch.evidence.facts,
        lineage=build_lineage(batch.made),
    )


def find_least_rows(single: Ledger, batch: Ledger) -> int:
    """Return the number of rows from which on the engine for batches is the faster one.

    Both were timed at 1 and at ``batch`` rows. A straight line through its two times stands for
    the times of an engine between them, and the lines cross where the other engine takes over: at
    2 rows at least, at ``batch`` at most. The times are divided by those of the fp32 graph, which
    took its turn in the rounds of both.
    """
    most = batch.batch
    gain_one = measure_gain(single, batch, 1)
    gain_most = measure_gain(single, batch, most)
    if gain_most <= 0:
        return most
    if gain_one >= 0:
        return 2
    crossing = 1 + (most - 1) * gain_one / (gain_one - gain_most)
    return min(most, max(2, math.ceil(crossing)))


def measure_gain(single: Ledger, batch: Ledger, rows: int) -> float:
    """Return the microseconds that the engine for batches saves in a call of so many rows."""
    scale = read_median(single, SHARED, rows) / read_median(batch, SHARED, rows)
    return read_median(single, ENGINE, rows) - scale * read_median(batch, ENGINE, rows)


def read_median(ledger: Ledger, hop: str, rows: int) -> float:
    return ledger.hops[hop].latencies[rows].p50
