"""The figure of a search: latency against score, the front, and the promises as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.proof.report import formatting
from attar.proof.report.figures import speed, style
from attar.proof.report.figures.front import Point, draw_dot, draw_front, write_name
from attar.proof.report.figures.style import Panel
from attar.search.result import SearchResult, VariantResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_panel(result: SearchResult) -> Panel | None:
    """Draw the trained variants; None if fewer than two were."""
    shown = list_points(result)
    if len(shown) < 2:
        return None
    title = f"{result.score_name[:1].upper()}{result.score_name[1:]} and latency of the variants"
    with style.house():
        figure, axes = style.panel(300, left=56, right=24, top=18, bottom=38)
        log = draw_front(axes, shown)
        axes.margins(0.12)
        for each in shown:
            draw_variant(axes, each, result.get_winner())
        draw_promises(axes, result)
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


def draw_variant(axes: Axes, point: Point, winner: VariantResult | None) -> None:
    wins = winner is not None and point.name == winner.name
    draw_dot(axes, point, wins)
    name = winner.title if winner and wins else point.name
    write_name(axes, name, (point.latency, point.value), wins)


def draw_promises(axes: Axes, result: SearchResult) -> None:
    """Draw the least score and the largest latency that are promised, where they can be drawn."""
    drop, teacher = result.promises.get("score_drop"), result.teacher_score
    if drop is not None and teacher is not None:
        axes.axhline(teacher - drop, color=style.FAIL, linewidth=1.0, linestyle="--")
    times = result.promises.get("speedup")
    if times is not None and result.reference_p50 is not None:
        axes.axvline(result.reference_p50 / times, color=style.FAIL, linewidth=1.0, linestyle="--")


def write_caption(result: SearchResult, log: bool) -> str:
    axis = " The axis is logarithmic." if log else ""
    return (
        "Median time of a call, and the score on the validation split. Filled dots keep "
        "all promises, hollow ones break one; the dashed lines are the promised speed and score. "
        f"The line joins those that no other beats.{axis}"
    )
