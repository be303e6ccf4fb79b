"""Drawing: boxes, arrows and text as SVG that is readable on light and dark pages.

Colours are CSS variables with a value for each scheme.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

Point = tuple[float, float]

LIGHT = {
    "ink": "#201e26",
    "muted": "#6d6a76",
    "line": "#c9c5bb",
    "card": "#ffffff",
    "teacher": "#44607f",
    "student": "#713a80",
    "passed": "#23734a",
    "failed": "#b4232a",
    "undecided": "#8f5f00",
}
DARK = {
    "ink": "#eceaf0",
    "muted": "#a7a3b2",
    "line": "#56525f",
    "card": "#2a2831",
    "teacher": "#8fb0d4",
    "student": "#cf9be0",
    "passed": "#62c08d",
    "failed": "#f0797d",
    "undecided": "#e0ac4a",
}


def render_variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


STYLE = f"""<style>
.figure {{ {render_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ .figure {{ {render_variables(DARK)} }} }}
</style>"""
"""For a file on its own: the reader's system decides."""
SITE_STYLE = f"""<style>
[data-md-color-scheme="default"] .figure {{ {render_variables(LIGHT)} }}
[data-md-color-scheme="slate"] .figure {{ {render_variables(DARK)} }}
</style>"""
"""For a figure within a page of the site: the page decides."""


def render_svg(width: float, height: float, parts: Iterable[str]) -> str:
    """Return a whole file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox="0 0 {width:g} {height:g}"'
    )
    return "\n".join(
        [f'{head} font-family="sans-serif" font-size="13">', STYLE, *parts, "</svg>", ""]
    )


def draw_text(
    x: float,
    y: float,
    words: str,
    tone: str = "ink",
    anchor: str = "middle",
    bold: bool = False,
    size: float = 13,
) -> str:
    """Draw one line; ``y`` is its baseline."""
    weight = ' font-weight="600"' if bold else ""
    head = f'<text x="{x:g}" y="{y:g}" style="fill: var(--{tone})" text-anchor="{anchor}" font-size="{size:g}"{weight}>'
    return f"{head}{escape(words)}</text>"


def draw_box(
    x: float,
    y: float,
    width: float,
    height: float,
    lines: Iterable[str],
    tone: str = "line",
    dashed: bool = False,
) -> str:
    """Draw a rectangle with its lines in the middle, the first one bold."""
    words = list(lines)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    first = y + height / 2 + 4.5 - 8.5 * (len(words) - 1)
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" style="fill: var(--card); stroke: var(--{tone})"'
    rows = [
        draw_text(
            x + width / 2,
            first + 17 * row,
            line,
            "muted" if row else "ink",
            bold=not row,
            size=12 if row else 13,
        )
        for row, line in enumerate(words)
    ]
    return "\n".join([f'{shape} stroke-width="1.6"{dash}/>', *rows])


def draw_area(
    x: float, y: float, width: float, height: float, tone: str, opacity: float = 0.1
) -> str:
    """Draw a shade behind other parts."""
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="9"'
    return f'{shape} style="fill: var(--{tone})" opacity="{opacity:g}"/>'


def draw_line(
    points: Iterable[Point], tone: str = "muted", width: float = 1.5, dashed: bool = False
) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" style="stroke: var(--{tone})" stroke-width="{width:g}"{dash}/>'


def draw_arrow(*points: Point, tone: str = "muted", dashed: bool = False) -> str:
    """Draw a line through the points with a head at the last; its last stretch is level or upright."""
    (x0, y0), (x, y) = points[-2:]
    across, down = (x > x0) - (x < x0), (y > y0) - (y < y0)
    back, side = (x - 8 * across, y - 8 * down), (4 * down, 4 * across)
    corners = (
        f"{x:g},{y:g} {back[0] + side[0]:g},{back[1] + side[1]:g} "
        f"{back[0] - side[0]:g},{back[1] - side[1]:g}"
    )
    head = f'<polygon points="{corners}" style="fill: var(--{tone})"/>'
    return draw_line([*points[:-1], back], tone, dashed=dashed) + head


def draw_dot(x: float, y: float, tone: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="5" style="fill: var(--{tone})"/>'
