"""The table of ``benchmarks.engines``, and what became of its goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from attar.proof.estimates import statistics
from attar.proof.estimates.sums import Sums
from benchmarks.peers.contenders import BATCHES, FLOAT, OLIVE_INT8
from benchmarks.peers.field import ContenderRow, Field
from benchmarks.verdicts import at_most, verdict

SLOWER, FASTER = 1.03, 2.0
"""Goals: at most so many times the fastest other's time; at least so many times as fast as Olive's
default."""
LOST = 0.002
"""Of CORR, at most, beside the float student: what loses more is neither picked nor compared."""
Bounds = tuple[float, float]


def ratio(row: ContenderRow, base: ContenderRow, batch: int) -> tuple[float, Bounds]:
    """How many times as long as the base it takes: the median over the rounds, and its bounds."""
    each = row.seconds[batch] / base.seconds[batch]
    return float(np.median(each)), statistics.bound_median(each)


def line(field: Field, row: ContenderRow, picked: Mapping[int, ContenderRow]) -> str:
    if not row.seconds:
        return f"| {row.name} | not run here: {row.why} |" + " |" * 8
    assert row.built is not None
    cells = []
    for batch in BATCHES:
        times, (low, high) = ratio(row, picked[batch], batch)
        cells += [
            f"{1e6 * row.median(batch):,.1f}",
            f"{times:.2f} ({low:.2f} to {high:.2f})",
        ]
    cost = row.built.cost
    cells += [
        f"{field.score(row):.4f}",
        f"{field.correlation(row, 'test').value:.4f}",
        f"{row.built.size / 1e3:,.0f}",
    ]
    cells += [f"{cost.seconds:.1f}", f"{cost.memory / 1e6:,.0f}"] if cost else ["", ""]
    name = f"**{row.name}**" if row.name in {each.name for each in picked.values()} else row.name
    return f"| {name} | {' | '.join(cells)} |"


def table(field: Field, picked: Mapping[int, ContenderRow]) -> str:
    times = [f"batch {batch}, µs | times the pick's" for batch in BATCHES]
    head = ["engine", *times, "accuracy", "CORR", "kB", "build, s", "build, MB"]
    columns = len(BATCHES) * 2 + 6
    lines = [line(field, row, picked) for row in field.rows.values()]
    return "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * columns, *lines])


def goals(field: Field, picked: Mapping[int, ContenderRow]) -> list[str]:
    """What was hoped for, what became of it. A pick is compared with the fastest peer whose answers
    are as good as a pick's must be; what is faster and loses more is told."""
    others = [row for row in field.rows.values() if row.seconds and not row.contender.ours]
    floor = field.correlation(field.rows[FLOAT], "test").value - LOST
    good = [row for row in others if field.correlation(row, "test").value >= floor]
    said = []
    for batch in BATCHES:
        fastest = min(good, key=partial(ContenderRow.median, batch=batch))
        times, (low, high) = ratio(picked[batch], fastest, batch)
        found = (
            f"{picked[batch].name} takes {times:.3f} ({low:.3f} to {high:.3f}) times the time of "
            f"{fastest.name}"
        )
        said.append(f"batch {batch}: {found}, goal at most {SLOWER}: {at_most(low, high, SLOWER)}")
        lost = [row for row in others if row not in good]
        said += [tell_loss(field, row, picked[batch], batch) for row in lost]
        if (olive := field.rows[OLIVE_INT8]).seconds:
            times, (low, high) = ratio(olive, picked[batch], batch)
            found = f"{times:.2f} ({low:.2f} to {high:.2f}) times as fast as {olive.name}"
            said.append(
                f"batch {batch}: {found}, goal at least {FASTER:.0f}: {verdict(low, high, FASTER)}"
            )
    int8 = [row for row in others if row.contender.int8]
    picks = {row.name: row for row in picked.values()}
    return [*said, *(goal for row in picks.values() for goal in faithful(field, row, int8))]


def tell_loss(field: Field, row: ContenderRow, picked: ContenderRow, batch: int) -> str:
    times, (low, high) = ratio(row, picked, batch)
    correlation, score = field.correlation(row, "test").value, field.score(row)
    return (
        f"batch {batch}: {row.name} takes {times:.3f} ({low:.3f} to {high:.3f}) times the pick's "
        f"time and is not compared: its CORR is {correlation:.4f}, its accuracy {score:.4f}, those "
        f"of {FLOAT} {field.correlation(field.rows[FLOAT], 'test').value:.4f} and "
        f"{field.score(field.rows[FLOAT]):.4f}"
    )


def faithful(field: Field, picked: ContenderRow, int8: Sequence[ContenderRow]) -> list[str]:
    """CORR on the same test samples, against the most faithful of the peers' int8."""
    if not int8:
        return []
    best = max(int8, key=lambda row: field.correlation(row, "test").value)
    mine, theirs = field.correlation(picked, "test"), field.correlation(best, "test")
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
    return [f"{found}, goal at least 0: {verdict(low, high, 0)}"]
