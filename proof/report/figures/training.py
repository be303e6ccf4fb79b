"""Training curves of teacher, student and control, and the attentions of the distiller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attar.proof.report import formatting
from attar.proof.report.figures import style
from attar.proof.report.figures.style import Panel
from attar.proof.report.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INKS = {"teacher": style.TEACHER, "student": style.ENGINE, "control": style.CONTROL}
LEANINGS = {"of teacher": "teacher_attention_on_wrong", "of student": "student_attention_on_wrong"}
"""Facts of the student's history, by the attention that they are about."""
INKS |= {"of teacher": style.TEACHER, "of student": style.ENGINE}
Points = list[tuple[float, float]]


def draw_panels(records: Sequence[Record], score_name: str) -> list[Panel]:
    """Draw loss, score, CORR, KDL and attention by epoch. A model that was not trained has no
    curve."""
    histories = {r.slot: r.facts.get("history") or [] for r in records if r.slot in INKS}
    best = {r.slot: r.facts.get("best_epoch") for r in records if r.slot in INKS}
    leaning = {
        name: read_series(histories, fact).get("student", []) for name, fact in LEANINGS.items()
    }
    made = [
        draw_curves(
            "Training loss", read_series(histories, "loss"), best,
            "Each model's own loss: compare shapes, not heights.",
        ),
        draw_curves(
            f"Validation {score_name}", read_series(histories, "score"), best,
            f"{formatting.capitalize(score_name)} on the validation split after each epoch. A ring "
            "marks the epoch that was kept.",
        ),
        draw_curves(
            "Validation CORR", read_series(histories, "correlation"), best,
            "How well the student's outputs follow the teacher's on the validation split.",
        ),
        draw_curves(
            "Validation KDL", read_series(histories, "kdl"), best,
            "The divergence of the student's probabilities from the teacher's, in nats: lower is "
            "nearer.",
        ),
        draw_curves(
            "Attention", {name: points for name, points in leaning.items() if points}, {},
            "The mean weight that Teacher and Student Attention give to samples that the teacher "
            "gets wrong; 1 is no lean.",
        ),
    ]  # fmt: skip  # a chart's name and data on one line, its caption on the next
    return [one for one in made if one is not None]


def read_series(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], name: str
) -> dict[str, Points]:
    found = {
        slot: [(e["epoch"], e[name]) for e in history if e.get(name) is not None]
        for slot, history in histories.items()
    }
    return {slot: points for slot, points in found.items() if points}


def draw_curves(
    title: str, lines: Mapping[str, Points], best: Mapping[str, Any], caption: str
) -> Panel | None:
    if not lines:
        return None
    from matplotlib.ticker import MaxNLocator

    with style.house():
        figure, axes = style.panel(230, left=46, right=66, top=14, bottom=38)
        axes.grid(axis="y")
        axes.grid(visible=False, axis="x")
        axes.tick_params(axis="y", labelcolor=style.MUTED, labelsize=style.SMALL)
        for slot, points in lines.items():
            draw_curve(axes, points, INKS[slot], best.get(slot))
        named(axes, {slot: points[-1] for slot, points in lines.items()})
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        drawn = style.svg(figure, title)
    return Panel(title, drawn, caption)


def draw_curve(axes: Axes, points: Points, ink: str, kept: float | None) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], color=ink, linewidth=1.8)
    axes.plot(*points[-1], "o", color=ink, markersize=4)
    ring = [(x, y) for x, y in points if x == kept]
    axes.plot(
        [x for x, _ in ring],
        [y for _, y in ring],
        "o",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor=ink,
    )


def named(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write names at the right, at the heights where the curves end, moved apart if they
    overlap."""
    low, high = axes.get_ylim()
    gap, height = (high - low) * 0.085, low
    for slot, (_, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        height = max(y, height + gap)
        axes.text(
            1.03, height, slot, transform=axes.get_yaxis_transform(), color=INKS[slot], va="center"
        )
