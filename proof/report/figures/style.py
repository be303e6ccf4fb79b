"""The house style: small panels, text as text, and colours that follow the page into the dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attar.proof.report import formatting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 372
"""Width of a panel in CSS pixels: three stand side by side on a desk, one fills a telephone."""
WIDE = 960
"""Width of a panel that has a row of its own."""
ROW = 27
"""Height of a row of a panel that has rows."""
SIZE = 11.5
SMALL = 10.0
TOP, BOTTOM, RIGHT = 26, 34, 62

INK, MUTED, LINE, FAIL, PAPER = "#01a001", "#02a002", "#03a003", "#04a004", "#05a005"
TEACHER, STUDENT, ENGINE, CONTROL = "#06a006", "#07a007", "#08a008", "#09a009"
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    FAIL: "failed",
    PAPER: "card",
    TEACHER: "teacher",
    STUDENT: "student",
    ENGINE: "engine",
    CONTROL: "control",
}
"""Stand-ins that matplotlib draws with; ``svg`` puts the CSS variables in their place."""

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "attar",
    "font.family": "DejaVu Sans",
    "font.size": SIZE,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": SMALL,
    "axes.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SIZE,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "figure.dpi": 72,
}


@dataclass(frozen=True)
class Panel:
    """A drawn figure. ``caption`` says what one sees."""

    title: str
    svg: str
    caption: str


def house() -> AbstractContextManager[None]:
    """Draw and write in the house style, whatever the user's matplotlibrc says."""
    from matplotlib import style

    return style.context(["default", SETTINGS])


def panel(
    height: float,
    left: float,
    right: float = RIGHT,
    top: float = TOP,
    bottom: float = BOTTOM,
    width: float = WIDTH,
) -> tuple[Figure, Axes]:
    """One pair of axes in a panel, margins in pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72))
    x, y = left / width, bottom / height
    return figure, figure.add_axes((x, y, 1 - x - right / width, 1 - y - top / height))


def rows_panel(labels: Sequence[str], right: float = RIGHT, top: float = 8) -> tuple[Figure, Axes]:
    """Return axes with a row for each label, the first on top, and room for the labels at the
    left."""
    shown = [shorten(label) for label in labels]
    figure, axes = panel(
        top + BOTTOM + ROW * len(shown), 14 + 7.1 * max(map(len, shown), default=0), right, top
    )
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks(range(len(shown)), shown)
    return figure, axes


def shorten(label: str, longest: int = 18) -> str:
    label = formatting.strip_controls(label)
    return label if len(label) <= longest else label[: longest - 1] + "…"


def beside(axes: Axes, row: float, text: str, colour: str = INK) -> None:
    """A value at the right edge of the panel, so that values of several rows stand in a column."""
    room = (1 - axes.get_position().x1) * WIDTH
    axes.annotate(
        text, (1, row), (room - 3, 0),
        xycoords=axes.get_yaxis_transform(), textcoords="offset points",
        ha="right", va="center_baseline", color=colour, annotation_clip=False,
    )  # fmt: skip  # where, then how


def ring(axes: Axes, x: float, y: float, fill: str, edge: str, size: float = 8) -> None:
    """A dot with an edge; hollow when it is filled with the paper's colour."""
    axes.plot(
        [x],
        [y],
        "o",
        markersize=size,
        markerfacecolor=fill,
        markeredgecolor=edge,
        markeredgewidth=1.7,
    )


def svg(figure: Figure, label: str) -> str:
    """Return the figure as an ``<svg>`` element. The same figure and label give the same text."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = themed(owned(text, label))
    view = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg class="plot" {view[0] if view else ""} role="img" aria-label="{quoted(label)}"'
    return re.sub(
        r"<svg[^>]*>",
        lambda _: f'{head} xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    )


def owned(text: str, label: str) -> str:
    """Ids that no other figure of the page has; those that nothing refers to are dropped."""
    import hashlib

    prefix = "f" + hashlib.sha256(label.encode()).hexdigest()[:10]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(
        r' id="([^"]*)"',
        lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "",
        text,
    )
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)


def themed(text: str) -> str:
    """CSS variables for the stand-in colours, and the page's fonts."""
    for stand_in, name in VARIABLES.items():
        text = text.replace(stand_in, f"var(--{name})")
    return re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)


def quoted(label: str) -> str:
    from html import escape

    return escape(formatting.strip_controls(label))
