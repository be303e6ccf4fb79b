"""The table of ``benchmarks.engines``, and what became of its goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from attar.proof.estimates import statistics
from attar.proof.estimates.sums import Sums
from benchmarks.peers.contenders import BATCHES, FLOAT, OLIVE_INT8
from benchmarks.peers.field import ContenderRow, Field
from benchmarks.verdicts import judge_least, judge_most

SLOWER, FASTER = 1.03, 2.0
"""Goals: at most so many times the fastest other's time; at least so many times as fast as Olive's
default."""
LOST = 0.002
"""Of CORR, at most, beside the float student: what loses more is neither picked nor compared."""
Bounds = tuple[float, float]


def compare_times(row: ContenderRow, base: ContenderRow, batch: int) -> tuple[float, Bounds]:
    """Return how many times as long as the base it takes: the median over the rounds, and its
    bounds."""
    each = row.seconds[batch] / base.seconds[batch]
    return float(np.median(each)), statistics.bound_median(each)


def format_row(field: Field, row: ContenderRow, picked: Mapping[int, ContenderRow]) -> str:
    if not row.seconds:
        return f"| {row.name} | not run here: {row.why} |" + " |" * 8
    assert row.built is not None
    cells = []
    for batch in BATCHES:
        times, (low, high) = compare_times(row, picked[batch], batch)
        cells += [
            f"{1e6 * row.compute_median(batch):,.1f}",
            f"{times:.2f} ({low:.2f} to {high:.2f})",
        ]
    cost = row.built.cost
    cells += [
        f"{field.compute_score(row):.4f}",
        f"{field.compute_correlation(row, 'test').value:.4f}",
        f"{row.built.size / 1e3:,.0f}",
    ]
    cells += [f"{cost.seconds:.1f}", f"{cost.memory / 1e6:,.0f}"] if cost else ["", ""]
    name = f"**{row.name}**" if row.name in {each.name for each in picked.values()} else row.name
    return f"| {name} | {' | '.join(cells)} |"


def render_table(field: Field, picked: Mapping[int, ContenderRow]) -> str:
    times = [f"batch {batch}, µs | times the pick's" for batch in BATCHES]
    head = ["engine", *times, "accuracy", "CORR", "kB", "build, s", "build, MB"]
    columns = len(BATCHES) * 2 + 6
    lines = [format_row(field, row, picked) for row in field.rows.values()]
    return "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * columns, *lines])


def judge_goals(field: Field, picked: Mapping[int, ContenderRow]) -> list[str]:
    """Return what was hoped for and what became of it. A pick is compared with the fastest peer
    whose answers are as good as a pick's must be; what is faster and loses more is told."""
    others = [row for row in field.rows.values() if row.seconds and not row.contender.ours]
    floor = field.compute_correlation(field.rows[FLOAT], "test").value - LOST
    good = [row for row in others if field.compute_correlation(row, "test").value >= floor]
    said = []
    for batch in BATCHES:
        fastest = min(good, key=partial(ContenderRow.compute_median, batch=batch))
        times, (low, high) = compare_times(picked[batch], fastest, batch)
        found = (
            f"{picked[batch].name} takes {times:.3f} ({low:.3f} to {high:.3f}) times the time of "
            f"{fastest.name}"
        )
        said.append(
            f"batch {batch}: {found}, goal at most {SLOWER}: {judge_most(low, high, SLOWER)}"
        )
        lost = [row for row in others if row not in good]
        said += [tell_loss(field, row, picked[batch], batch) for row in lost]
        if (olive := field.rows[OLIVE_INT8]).seconds:
            times, (low, high) = compare_times(olive, picked[batch], batch)
            found = f"{times:.2f} ({low:.2f} to {high:.2f}) times as fast as {olive.name}"
            said.append(
                f"batch {batch}: {found}, goal at least {FASTER:.0f}: "
                f"{judge_least(low, high, FASTER)}"
            )
    int8 = [row for row in others if row.contender.int8]
    picks = {row.name: row for row in picked.values()}
    return [
        *said,
        *(goal for row in picks.values() for goal in judge_faithfulness(field, row, int8)),
    ]


def tell_loss(field: Field, row: ContenderRow, picked: ContenderRow, batch: int) -> str:
    times, (low, high) = compare_times(row, picked, batch)
    correlation, score = field.compute_correlation(row, "test").value, field.compute_score(row)
    return (
        f"batch {batch}: {row.name} takes {times:.3f} ({low:.3f} to {high:.3f}) times the pick's "
        f"time and is not compared: its CORR is {correlation:.4f}, its accuracy {score:.4f}, those "
        f"of {FLOAT} {field.compute_correlation(field.rows[FLOAT], 'test').value:.4f} and "
        f"{field.compute_score(field.rows[FLOAT]):.4f}"
    )


def judge_faithfulness(
    field: Field, picked: ContenderRow, int8: Sequence[ContenderRow]
) -> list[str]:
    """Compare CORR on the same test samples with the most faithful of the peers' int8."""
    if not int8:
        return []
    best = max(int8, key=lambda row: field.compute_correlation(row, "test").value)
    mine, theirs = (
        field.compute_correlation(picked, "test"),
        field.compute_correlation(best, "test"),
    )
    width = mine.columns.shape[1]
    both = Sums(
        np.hstack([mine.columns, theirs.columns]),
        lambda s: mine.statistic(s[..., :width]) - theirs.statistic(s[..., width:]),
    )
    low, high = statistics.bootstrap_bounds({"difference": both})["difference"]
    found = (
        f"CORR of {picked.name} {mine.value:.4f}, {best.name} {theirs.value:.4f}, difference "
        f"{both.value:+.5f} ({low:+.5f} to {high:+.5f})"
    )
    return [f"{found}, goal at least 0: {judge_least(low, high, 0)}"]
