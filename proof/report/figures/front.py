"""The candidates by time and quality: the front that no other beats, and the winner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attar.proof.ledger.candidates import CandidateChoice, CandidateResult
from attar.proof.report import formatting
from attar.proof.report.figures import speed, style
from attar.proof.report.figures.style import Panel
from attar.proof.report.target import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLAT = 0.004
"""The least height of an axis, so that differences in the fourth decimal do not fill it."""
LETTER, LINE = 6.0, 11.0
"""Width of a letter and height of a line of the names, in points."""


@dataclass(frozen=True)
class Point:
    name: str
    latency: float
    """Microseconds, the median at batch 1."""
    value: float
    """More is better."""
    ink: str
    kept: bool
    """Whether it was shown to keep the promises."""


def draw_panels(target: Target) -> list[Panel]:
    """Draw the correlation and the score over the latency, if at least two were measured."""
    choice = target.choice
    if choice is None:
        return []
    reads: dict[str, Callable[[CandidateResult], float | None]] = {
        "CORR": lambda result: result.correlation,
        choice.score_name: lambda result: result.score,
    }
    drawn = {name: list_points(choice, read) for name, read in reads.items()}
    return [
        draw_panel(target.name, name, found, choice.winner)
        for name, found in drawn.items()
        if len(found) > 1
    ]


def list_points(
    choice: CandidateChoice, read: Callable[[CandidateResult], float | None]
) -> list[Point]:
    """Return the candidates that have a latency and such a value."""
    return [
        Point(
            result.name,
            latency,
            value,
            style.FAIL if result.verdict == "failed" else style.STUDENT,
            result.verdict == "passed",
        )
        for result in choice.candidates
        if (latency := result.p50.get(1)) is not None and (value := read(result)) is not None
    ]


def find_front(found: Sequence[Point]) -> list[Point]:
    """Those that no other beats: each the best of all that are as fast as it or faster."""
    best: list[Point] = []
    for point in sorted(found, key=lambda each: (each.latency, -each.value)):
        if not best or point.value > best[-1].value:
            best.append(point)
    return best


def draw_panel(target_name: str, name: str, found: Sequence[Point], winner: str) -> Panel:
    from matplotlib.ticker import MaxNLocator

    title = f"{formatting.capitalize(name)} and latency"
    with style.house():
        figure, axes = style.panel(230, left=56, right=24, top=18, bottom=38)
        log = draw_front(axes, found)
        axes.margins(x=0.14)
        axes.set_ylim(*widen_height([point.value for point in found]))
        best = find_front(found)
        for point in sorted(
            found, key=lambda each: each.name == winner
        ):  # on top of those that it hides
            draw_dot(axes, point, point.name == winner)
        axes.autoscale_view()  # before asking where the dots are
        for together in group_near_points(found, lambda point: place_point(axes, point)):
            write_names(axes, together, winner)
        speed.set_ticks(axes, formatting.format_microseconds, log)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: formatting.format_score(value))
        drawn = style.svg(figure, f"{target_name}: {title}")
    return Panel(title, drawn, write_caption(winner, best, log))


def draw_front(axes: Axes, found: Sequence[Point]) -> bool:
    """Draw the line of those that no other beats, and return whether the time is logarithmic."""
    axes.grid(axis="y")
    axes.tick_params(axis="y", labelcolor=style.MUTED, labelsize=style.SMALL)
    log = speed.needs_logarithm([point.latency for point in found], [])
    if log:
        axes.set_xscale("log")
    best = find_front(found)
    xs, ys = [each.latency for each in best], [each.value for each in best]
    axes.plot(xs, ys, color=style.MUTED, linewidth=1.2)
    return log


def widen_height(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the axis, with room around the values and at least ``FLAT`` between
    them."""
    middle, room = (
        (max(values) + min(values)) / 2,
        max(FLAT, 1.36 * (max(values) - min(values))) / 2,
    )
    return middle - room, middle + room


def draw_dot(axes: Axes, point: Point, wins: bool) -> None:
    """The one that goes on is larger; one that is not shown to keep the promises is hollow."""
    ink = style.ENGINE if wins and point.ink != style.FAIL else point.ink
    style.ring(
        axes, point.latency, point.value, ink if point.kept else style.PAPER, ink, 11 if wins else 8
    )


def place_point(axes: Axes, point: Point) -> tuple[float, float]:
    """Where it is in the figure, in points."""
    x, y = axes.transData.transform((point.latency, point.value)) * 72 / axes.figure.dpi
    return float(x), float(y)


def group_near_points(
    found: Sequence[Point], place: Callable[[Point], tuple[float, float]]
) -> list[list[Point]]:
    """Group the points whose names would overlap, from left to right.

    ``place`` gives the place of a point in the figure, in points.
    """
    groups: list[list[Point]] = []
    for point in sorted(found, key=place):
        x, y = place(point)
        for group in groups:
            left = sum(place(each)[0] for each in group) / len(group)
            wide = LETTER * (len(join_names(group)) + len(point.name) + 2) / 2
            if x - left < wide and any(abs(y - place(each)[1]) < LINE for each in group):
                group.append(point)
                break
        else:
            groups.append([point])
    return groups


def join_names(together: Sequence[Point]) -> str:
    return ", ".join(point.name for point in together)


def write_names(axes: Axes, together: Sequence[Point], winner: str) -> None:
    """Above the dots, in the middle; bold where one of them goes on."""
    middle = sum(point.latency for point in together) / len(together)
    place = (middle, max(point.value for point in together))
    write_name(axes, join_names(together), place, any(point.name == winner for point in together))


def write_name(axes: Axes, name: str, place: tuple[float, float], wins: bool) -> None:
    """Write a name above a place; bold where it goes on."""
    axes.annotate(
        name,
        place,
        (0, 9),
        textcoords="offset points",
        ha="center",
        color=style.INK if wins else style.MUTED,
        size=style.SMALL,
        weight="bold" if wins else "normal",
    )


def write_caption(winner: str, best: Sequence[Point], log: bool) -> str:
    axis = " The axis is logarithmic." if log else ""
    return (
        "Median time of a call at batch 1 on the validation split, less is better. The line joins "
        f"those that no other beats: {join_names(best)}. {winner} goes on; what is not shown to "
        f"keep the promises is hollow.{axis}"
    )
