"""Pair: an engine for single samples and one for batches in one bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attar.bundle.manifest import BatchEngine, find_foreign_slot
from attar.bundle.stored_verdict import StoredVerdict
from attar.pipeline.core.errors import StageError
from attar.proof.artifacts import Choice
from attar.proof.ledger.candidates import CandidateChoice
from attar.proof.ledger.ledger_json import get_adapter
from attar.stages.package.proven import ProvenEngine, build_lineage, describe_requirements


def check_common_origin(single: ProvenEngine, batch: ProvenEngine) -> None:
    """Raises StageError for two engines of different tasks, teachers or students."""
    tasks = [each.evidence.facts["task"] for each in (single, batch)]
    if tasks[0] != tasks[1]:
        raise StageError(
            f"the two engines of a bundle have one task, and these were measured on {tasks[0]} and "
            f"on {tasks[1]}; package each alone, or measure both on one task"
        )
    lineages = [build_lineage(each.made) for each in (single, batch)]
    if slot := find_foreign_slot(lineages[0], lineages[1]):
        keys = " and ".join(lineage[slot].key[:12] for lineage in lineages)
        raise StageError(
            f"the two engines of a bundle come from one {slot}, and these do not ({keys}); package "
            "each alone, or make both from the same one"
        )


def describe_batch_engine(packed: Sequence[ProvenEngine]) -> BatchEngine | None:
    """Return what a manifest says of the second engine; None if there is none."""
    if len(packed) == 1:
        return None
    batch = packed[1]
    return BatchEngine(
        rows=batch.rows,
        engine=describe_requirements(batch.engine.facts),
        verdict=StoredVerdict.model_validate(batch.verdict.facts),
        ledger=batch.evidence.facts,
        lineage=build_lineage(batch.made),
    )


def find_least_rows(single: Choice, batch: Choice) -> int:
    """Return the number of rows from which on the engine for batches is the faster one.

    All candidates were timed in the same rounds, at 1 and at ``batch`` rows. Between them the time
    that the second engine saves is taken to grow along a straight line; where that crosses 0, it
    takes over: at 2 rows at least, at ``batch`` at most.
    """
    table = read_choice(batch)
    times = {each.name: each.p50 for each in table.candidates}
    single_times, batch_times = times[read_choice(single).winner], times[table.winner]
    most = table.batch
    saved_at_one = single_times[1] - batch_times[1]
    saved_at_most = single_times[most] - batch_times[most]
    if saved_at_most <= 0:
        return most
    crossing = 1 + (most - 1) * saved_at_one / (saved_at_one - saved_at_most)
    return max(2, math.ceil(crossing)) if saved_at_one < 0 else 2


def read_choice(choice: Choice) -> CandidateChoice:
    table: CandidateChoice = get_adapter(CandidateChoice).validate_python(choice.facts)
    return table
