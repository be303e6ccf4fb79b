"""The ledger as a picture: the way from teacher to engine, and the promises beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.gate import Baseline, Metric
from attar.proof.hop import CHAIN
from attar.proof.ledger.ledger import Hop
from attar.proof.report import formatting
from attar.proof.report.figures import style
from attar.proof.report.figures.style import Panel
from attar.proof.report.target import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "teacher": style.TEACHER,
    "reference": style.TEACHER,
    "control": style.CONTROL,
    "engine": style.ENGINE,
    "production": style.ENGINE,
}

NARROW = 0.02
"""An axis never spans less, so that noise does not look like a cliff."""
BROKEN_AGAINST: Sequence[Baseline] = ("teacher", "previous", "absolute")
"""The baselines of the gates that mark a hop as the first broken one."""
FAR = 3.0
"""A promise further below the values than this many times their range is said, not drawn."""


def choose_colour(hop: str) -> str:
    return COLOURS.get(hop, style.STUDENT)


@dataclass(frozen=True)
class Column:
    """One column of the ledger, as it is drawn."""

    title: str
    what: str
    metric: Metric
    read: Callable[[Hop], float | None]
    promise: float | None
    between: Callable[[Hop], Sequence[float] | None]
    """The whisker: the bounds that a promise is held against."""
    of: str = ""
    """What they are bounds of, where that is not what the dots show."""


@dataclass(frozen=True)
class Row:
    """One hop of a column; ``value`` is None where it did not run here."""

    hop: str
    value: float | None
    between: Sequence[float] | None


def describe_agreement(target: Target) -> str:
    """Return what the agreement is a share of."""
    generates = target.ledger is not None and "tokens" in target.ledger.kinds.values()
    if generates:
        return "the share of places with the teacher's likeliest token, along its own sequences"
    return "the share of samples with the teacher's class"


def draw_panels(target: Target) -> list[Panel]:
    """Score, CORR and agreement, as far as the task has them."""
    columns = [
        make_score_column(target),
        make_teacher_column(
            "CORR", "correlation with the teacher's outputs", "correlation", target
        ),
        make_teacher_column(
            "Cosine",
            "mean cosine with the teacher's embedding of the same sample",
            "cosine",
            target,
        ),
        make_teacher_column("Agreement", describe_agreement(target), "agreement", target),
    ]
    made = [draw_hops(target, column) for column in columns]
    return [one for one in made if one is not None]


def make_score_column(target: Target) -> Column:
    """The score, with the stricter of two promises: a floor, or the teacher's score less the
    drop."""
    teacher, allowed = target.find_hop("teacher"), target.find_limit("score_drop")
    of_teacher = teacher.get_score() if teacher else None
    least = None if of_teacher is None or allowed is None else of_teacher - allowed
    floor = target.find_limit("score", "absolute")
    by_drop = Column(
        formatting.capitalize(target.score_name),
        f"{target.score_name} on the test split",
        "score_drop",
        Hop.get_score,
        least,
        lambda hop: bound_drop(hop, of_teacher),
        "the drop",
    )
    if floor is None or (least is not None and least >= floor):
        return by_drop
    return replace(by_drop, metric="score", promise=floor, between=Hop.get_score_bounds, of="")


def bound_drop(hop: Hop, of_teacher: float | None) -> ConfidenceBounds | None:
    """Return the bounds of the drop, taken off the teacher's score.

    They are paired, and the limit is held against them.
    """
    drop = hop.get_bounds("teacher", "score_drop")
    if drop is None or of_teacher is None:
        return None
    return ConfidenceBounds(of_teacher - drop.high, of_teacher - drop.low)


def make_teacher_column(title: str, what: str, name: Metric, target: Target) -> Column:
    return Column(
        title,
        what,
        name,
        lambda hop: hop.get_value("teacher", name),
        target.find_limit(name),
        lambda hop: hop.get_bounds("teacher", name),
    )


def list_rows(target: Target, column: Column) -> list[Row]:
    """Return the hops that have such a value, and those that were not run here."""
    return [
        Row(hop.name, column.read(hop), column.between(hop))
        for hop in target.hops
        if not hop.was_run or column.read(hop) is not None
    ]


def draw_hops(target: Target, column: Column) -> Panel | None:
    """A dot and a whisker for every hop; None when no hop has such a value."""
    rows = list_rows(target, column)
    known = [row.value for row in rows if row.value is not None]
    if not known:
        return None
    with style.house():
        figure, axes = style.rows_panel([row.hop for row in rows], top=style.TOP)
        shown = column.promise if is_near(column.promise, known) else None
        ends = [end for row in rows for end in row.between or ()]
        axes.set_xlim(*widen_range([*known, *ends] if shown is None else [*known, *ends, shown]))
        axes.locator_params(axis="x", nbins=4)
        if shown is not None:
            draw_promise(axes, shown)
        draw_path(axes, rows)
        for at, row in enumerate(rows):
            broken = (
                row.hop == target.first_broken
                and target.find_verdict(row.hop, column.metric, *BROKEN_AGAINST) == "failed"
            )
            draw_dot(axes, at, row, broken)
        drawn = style.svg(figure, f"{target.name}: {column.title} over the hops")
    return Panel(column.title, drawn, write_caption(column, shown is not None))


def is_near(promise: float | None, values: Sequence[float]) -> bool:
    """Whether the axis can hold the limit. One far below all values would squash the dots."""
    if promise is None or promise < 0 <= min(values):
        return False
    return promise >= min(values) - FAR * max(max(values) - min(values), NARROW)


def write_caption(column: Column, drawn: bool) -> str:
    what, promise = column.what, column.promise
    of = f" of {column.of}" if column.of else ""
    says = f"{formatting.capitalize(what)}; whiskers: one-sided 95 % bounds{of}."
    if promise is None:
        return f"{says} Nothing is promised here."
    limit = formatting.format_score(promise)
    if not drawn:
        place = f"at least {limit}, which lies left of this axis"
    else:
        place = f"to stay right of the dashed line, at {limit}"
    return f"{says} The engine is promised {place}."


def widen_range(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the values take."""
    low, high = min(values), max(values)
    room = max(high - low, NARROW)
    middle = (low + high) / 2
    return middle - 0.62 * room, middle + 0.62 * room


def draw_promise(axes: Axes, promise: float) -> None:
    axes.axvspan(axes.get_xlim()[0], promise, color=style.FAIL, alpha=0.07, linewidth=0)
    axes.axvline(promise, color=style.FAIL, linewidth=1.2, dashes=(4, 3))
    right_half = promise > sum(axes.get_xlim()) / 2
    axes.text(
        promise,
        1.02,
        "promised",
        transform=axes.get_xaxis_transform(),
        color=style.FAIL,
        size=style.SMALL,
        ha="right" if right_half else "left",
        va="bottom",
    )


def draw_path(axes: Axes, rows: Sequence[Row]) -> None:
    """The line through the chain; reference, control and production stand beside it."""
    points = [
        (row.value, at) for at, row in enumerate(rows) if row.value is not None and row.hop in CHAIN
    ]
    axes.plot(
        [x for x, _ in points], [y for _, y in points], color=style.MUTED, linewidth=1.3, alpha=0.55
    )


def draw_dot(axes: Axes, at: int, row: Row, broken: bool) -> None:
    if row.value is None:
        style.beside(axes, at, "not run here", style.MUTED)
        return
    ink = choose_colour(row.hop)
    if row.between is not None:
        axes.plot(
            row.between, [at, at], color=ink, linewidth=2.4, alpha=0.45, solid_capstyle="butt"
        )
    if broken:
        style.ring(axes, row.value, at, "none", style.FAIL, size=15)
    style.ring(axes, row.value, at, ink if row.hop in CHAIN else style.PAPER, ink)
    style.beside(axes, at, formatting.format_score(row.value), style.FAIL if broken else style.INK)
