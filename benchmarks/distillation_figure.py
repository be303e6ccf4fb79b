"""The figure of ``benchmarks.distillation``: for every row what it gains over the control, in
accuracy and in CORR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

Interval = tuple[float, float]
"""A mean and half of its interval."""
TITLES = ("accuracy, points over no teacher", "CORR over no teacher")


def draw_figure(file: Path, rows: Mapping[str, Sequence[Interval]], task: str) -> None:
    """Draw one line a row, its intervals for accuracy and CORR side by side; the same bytes for the
    same numbers."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"svg.hashsalt": "attar", "svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(
        1, 2, figsize=(10, 0.6 + 0.32 * len(rows)), sharey=True, layout="constrained"
    )
    heights = range(len(rows), 0, -1)
    for column, (plot, title) in enumerate(zip(axes, TITLES, strict=True)):
        scale = 100 if column == 0 else 1
        points = [rows[name][column] for name in rows]
        means, halves = [scale * mean for mean, _ in points], [scale * half for _, half in points]
        plot.errorbar(means, heights, xerr=halves, fmt="o", color="#1f5f8b", capsize=3)
        plot.axvline(0, color="#888888", linewidth=0.8)
        plot.set(title=title, yticks=list(heights), yticklabels=list(rows))
        plot.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{task}: paired differences over the seeds, with 90 % t intervals")
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
