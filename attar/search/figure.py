"""The figure of a search: latency against score, the front, and the promises as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.proof.report import formatting
from attar.proof.report.figures import speed, style
from attar.proof.report.figures.front import LETTER, Point, draw_dot, draw_front, place_point
from attar.proof.report.figures.style import Panel
from attar.search.result import SearchResult, VariantResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

LINE, SPACE = 9.0, 9.0
"""The height of a title, and its distance from its dot, in points."""
Interval = tuple[float, float]


def draw_panel(result: SearchResult) -> Panel | None:
    """Draw the variants; None if fewer than two were trained."""
    shown = list_points(result)
    if len(shown) < 2:
        return None
    title = f"{result.score_name[:1].upper()}{result.score_name[1:]} and latency of the variants"
    with style.house():
        figure, axes = style.panel(380, left=60, right=28, top=26, bottom=40, width=style.WIDE)
        log = draw_front(axes, shown)
        axes.margins(0.08)
        for each in shown:
            draw_dot(axes, each, each.name == result.winner)
        draw_untrained(axes, result)
        draw_promises(axes, result)
        axes.autoscale_view()  # before asking where the dots are
        write_titles(axes, shown, result)
        speed.set_ticks(axes, formatting.format_microseconds, log)
        axes.yaxis.set_major_formatter(lambda value, _: formatting.format_score(value))
        drawn = style.svg(figure, f"{result.recipe}: {title}")
    return Panel(title, drawn, write_caption(result, log))


def list_points(result: SearchResult) -> list[Point]:
    """Return the trained variants."""
    return [
        Point(each.name, each.p50, each.score, choose_ink(each), each.status == "kept")
        for each in result.variants
        if each.p50 is not None and each.score is not None
    ]


def choose_ink(each: VariantResult) -> str:
    return style.STUDENT if each.status == "kept" else style.FAIL


def draw_untrained(axes: Axes, result: SearchResult) -> None:
    """Mark the times of the variants that have no score, at the bottom."""
    times = [each.p50 for each in result.variants if each.score is None and each.p50 is not None]
    bottom = axes.get_xaxis_transform()
    axes.plot(times, [0.0] * len(times), "|", color=style.MUTED, markersize=14, transform=bottom)


def draw_promises(axes: Axes, result: SearchResult) -> None:
    """Draw the least score and the largest latency that are promised, where they can be drawn."""
    drop, teacher = result.promises.get("score_drop"), result.teacher_score
    if drop is not None and teacher is not None:
        axes.axhline(teacher - drop, color=style.FAIL, linewidth=1.0, linestyle="--")
        place = (0.0, teacher - drop)
        write_promise(axes, result.score_name, place, axes.get_yaxis_transform(), "left")
    times = result.promises.get("speedup")
    if times is not None and result.reference_p50 is not None:
        latency = result.reference_p50 / times
        axes.axvline(latency, color=style.FAIL, linewidth=1.0, linestyle="--")
        write_promise(axes, "speed", (latency, 1.0), axes.get_xaxis_transform(), "center")


def write_promise(
    axes: Axes, name: str, place: tuple[float, float], transform: Transform, align: str
) -> None:
    """Write what a line promises, above ``place``."""
    axes.annotate(
        f"promised {name}",
        place,
        (0, 4),
        xycoords=transform,
        textcoords="offset points",
        ha=align,
        color=style.FAIL,
        size=style.SMALL,
    )


def write_titles(axes: Axes, shown: list[Point], result: SearchResult) -> None:
    """Write the settings beside each dot that has room for them, towards the middle."""
    titles = {each.name: each.title for each in result.variants}
    middle = style.WIDE * 72 / (2 * axes.figure.dpi)
    taken: list[tuple[Interval, float]] = []
    for point in sorted(shown, key=lambda each: (each.name != result.winner, not each.kept)):
        x, y = place_point(axes, point)
        title, is_left = titles[point.name], x < middle
        ends = sorted([x, x + (1 if is_left else -1) * (SPACE + LETTER * len(title))])
        if all(abs(y - low) > LINE or not overlap((ends[0], ends[1]), own) for own, low in taken):
            taken.append(((ends[0], ends[1]), y))
            write_title(axes, point, title, is_left, point.name == result.winner)


def overlap(one: Interval, other: Interval) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def write_title(axes: Axes, point: Point, title: str, is_left: bool, wins: bool) -> None:
    axes.annotate(
        title,
        (point.latency, point.value),
        (SPACE if is_left else -SPACE, -3.5),
        textcoords="offset points",
        ha="left" if is_left else "right",
        color=style.INK if wins else style.MUTED,
        size=style.SMALL,
        weight="bold" if wins else "normal",
    )


def write_caption(result: SearchResult, log: bool) -> str:
    axis = " The axis is logarithmic." if log else ""
    return (
        "Median time of a call, and the score on the validation split. Filled dots keep "
        "all promises, hollow ones break one. The line joins those that no other beats. Strokes at "
        f"the bottom are the times of variants that were not trained to the end.{axis}"
    )
