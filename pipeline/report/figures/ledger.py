"""The ledger as a picture: the way from teacher to engine, and the promises beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attar.pipeline.report import words
from attar.pipeline.report.figures import style
from attar.pipeline.report.figures.style import Panel
from attar.pipeline.report.target import CHAIN, Hop, Target, against, measured, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"teacher": style.TEACHER, "reference": style.TEACHER, "control": style.CONTROL, "engine": style.ENGINE}

NARROW = 0.02
"""An axis never spans less, so that noise does not look like a cliff."""
FAR = 3.0
"""A promise further below the values than this many times their range is said, not drawn."""


def colour(hop: str) -> str:
    return COLOURS.get(hop, style.STUDENT)


@dataclass(frozen=True)
class Column:
    """One column of the ledger, as it is drawn."""

    title: str
    what: str
    gate: str
    read: Callable[[Hop], float | None]
    promise: float | None


def panels(target: Target) -> list[Panel]:
    """Score, CORR and agreement, as far as the task has them."""
    name = target.score_name
    of_teacher, allowed = number(target.hop("teacher"), "score"), target.limit("score_drop")
    floor = None if of_teacher is None or allowed is None else of_teacher - allowed
    columns = [
        Column(name.capitalize(), f"{name} on the test split", "score_drop", lambda hop: number(hop, "score"), floor),
        with_teacher("CORR", "correlation with the teacher's outputs", "correlation", target),
        with_teacher("Agreement", "the share of samples with the teacher's class", "agreement", target),
    ]
    made = [hops_panel(target, column) for column in columns]
    return [one for one in made if one is not None]


def with_teacher(title: str, what: str, name: str, target: Target) -> Column:
    return Column(title, what, name, lambda hop: against(hop, "teacher", name), target.limit(name))


def hops_panel(target: Target, column: Column) -> Panel | None:
    """Dots over the hops that have such a value; None when no hop has one."""
    rows = [(hop, column.read(hop) if measured(hop) else None) for hop in target.hops]
    rows = [(hop, value) for hop, value in rows if value is not None or not measured(hop)]
    known = [value for _, value in rows if value is not None]
    if not known:
        return None
    with style.house():
        figure, axes = style.rows_panel([hop["hop"] for hop, _ in rows], top=style.TOP)
        shown = column.promise if near(column.promise, known) else None
        axes.set_xlim(*span(known if shown is None else [*known, shown]))
        axes.locator_params(axis="x", nbins=4)
        if shown is not None:
            promise_line(axes, shown)
        path(axes, rows)
        for row, (hop, value) in enumerate(rows):
            broken = hop["hop"] == target.first_broken and target.breaks(hop["hop"], column.gate)
            dot(axes, row, hop["hop"], value, broken)
        drawn = style.svg(figure, f"{target.name}: {column.title} over the hops")
    return Panel(column.title, drawn, caption(column.what, column.promise, shown is not None))


def near(promise: float | None, values: Sequence[float]) -> bool:
    """Whether the axis can hold the promise; one far below all that was measured would squash the dots for nothing."""
    if promise is None or promise < 0 <= min(values):
        return False
    return promise >= min(values) - FAR * max(max(values) - min(values), NARROW)


def caption(what: str, promise: float | None, drawn: bool) -> str:
    says = f"{what[0].upper()}{what[1:]}, hop by hop."
    if promise is None:
        return f"{says} Nothing is promised here."
    if not drawn:
        return f"{says} The engine is promised at least {words.score(promise)}, which lies left of this axis."
    return f"{says} The engine is promised to stay right of the dashed line, at {words.score(promise)}."


def span(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the values take."""
    low, high = min(values), max(values)
    room = max(high - low, NARROW)
    middle = (low + high) / 2
    return middle - 0.62 * room, middle + 0.62 * room


def promise_line(axes: Axes, promise: float) -> None:
    axes.axvspan(axes.get_xlim()[0], promise, color=style.FAIL, alpha=0.07, linewidth=0)
    axes.axvline(promise, color=style.FAIL, linewidth=1.2, dashes=(4, 3))
    right_half = promise > sum(axes.get_xlim()) / 2
    axes.text(
        promise, 1.02, "promised", transform=axes.get_xaxis_transform(), color=style.FAIL, size=style.SMALL,
        ha="right" if right_half else "left", va="bottom",
    )  # fmt: skip  # arguments of a kind share a line


def path(axes: Axes, rows: Sequence[tuple[Hop, float | None]]) -> None:
    """The line through the chain; reference and control stand beside it."""
    points = [(value, row) for row, (hop, value) in enumerate(rows) if value is not None and hop["hop"] in CHAIN]
    axes.plot([x for x, _ in points], [y for _, y in points], color=style.MUTED, linewidth=1.3, alpha=0.55)


def dot(axes: Axes, row: int, hop: str, value: float | None, broken: bool) -> None:
    if value is None:
        style.beside(axes, row, "not run here", style.MUTED)
        return
    ink = colour(hop)
    fill = ink if hop in CHAIN else style.PAPER
    if broken:
        style.ring(axes, value, row, "none", style.FAIL, size=15)
    style.ring(axes, value, row, fill, ink)
    style.beside(axes, row, words.score(value), style.FAIL if broken else style.INK)
