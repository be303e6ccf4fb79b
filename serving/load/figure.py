"""The benchmark's figure as SVG: a line from the median to the 99th percentile of a measurement.

It is written by hand, as the library that draws the reports is not installed with the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

LEFT, RIGHT, WIDTH, STEP, TOP = 250, 130, 860, 24, 44
"""Pixels: room for names and for rates, whole width, height of a row, room above the rows."""
STYLE = """<style>
.bench { --ink: #201e26; --muted: #6d6a76; --line: #dcd9d1; --mark: #713a80; }
@media (prefers-color-scheme: dark) {
  .bench { --ink: #eceaf0; --muted: #a7a3b2; --line: #45414e; --mark: #cf9be0; }
}
</style>"""


@dataclass(frozen=True)
class Bar:
    """One measurement in microseconds, with a note at its right."""

    name: str
    p50: float
    p99: float
    note: str


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis, over whole powers of ten."""

    low: int
    high: int

    @classmethod
    def fit(cls, bars: Sequence[Bar]) -> LogAxis:
        low, high = (
            floor(log10(min(bar.p50 for bar in bars))),
            ceil(log10(max(bar.p99 for bar in bars))),
        )
        return cls(low, max(high, low + 1))

    def place(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (log10(value) - self.low) / (self.high - self.low)


def draw_chart(title: str, bars: Sequence[Bar]) -> str:
    """Return a whole file; ``bars`` is not empty, and its times are positive."""
    scale, height = LogAxis.fit(bars), TOP + STEP * len(bars) + 34
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="bench" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'{head} font-family="sans-serif" font-size="12">',
        STYLE,
        draw_text(12, 20, title, "ink", "start"),
    ]
    parts += [draw_grid(scale, power, height) for power in range(scale.low, scale.high + 1)]
    parts += [draw_row(scale, bar, TOP + STEP * (number + 0.5)) for number, bar in enumerate(bars)]
    return "\n".join(
        [
            *parts,
            draw_text(
                (LEFT + WIDTH - RIGHT) / 2, height - 2, "microseconds, median to p99", "muted"
            ),
            "</svg>",
            "",
        ]
    )


def draw_grid(scale: LogAxis, power: int, height: float) -> str:
    x, bottom = scale.place(10.0**power), height - 30
    ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom:g}"'
    rule = f'<line {ends} style="stroke: var(--line)"/>'
    return rule + draw_text(x, bottom + 13, f"{10.0**power:,g}", "muted")


def draw_row(scale: LogAxis, bar: Bar, y: float) -> str:
    start, end = scale.place(bar.p50), scale.place(bar.p99)
    ends = f'x1="{start:.1f}" x2="{end:.1f}" y1="{y:g}" y2="{y:g}"'
    reach = f'<line {ends} style="stroke: var(--mark)" stroke-width="3"/>'
    dot = f'<circle cx="{start:.1f}" cy="{y:g}" r="4.5" style="fill: var(--mark)"/>'
    names = draw_text(LEFT - 12, y + 4, bar.name, "ink", "end") + draw_text(
        WIDTH - 12, y + 4, bar.note, "muted", "end"
    )
    return names + reach + dot


def draw_text(x: float, y: float, words: str, tone: str, anchor: str = "middle") -> str:
    style = f'style="fill: var(--{tone})" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:g}" {style}>{escape(words)}</text>'
