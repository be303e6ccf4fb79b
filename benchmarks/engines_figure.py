"""The figure of ``benchmarks.engines``: latency of every engine against its CORR with the teacher,
a panel a batch size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np

from attar.proof.comparison.timing import Seconds

Found = tuple[Mapping[int, Seconds], float]
"""Of one engine: the seconds of each round by batch size, and its CORR."""


def draw_figure(file: Path, engines: Mapping[str, Found], picked: Mapping[int, str]) -> None:
    """Draw the engines, numbered in the panels and named once, below them; the same bytes for the
    same numbers."""
    matplotlib.use("svg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator

    matplotlib.rcParams.update({"svg.hashsalt": "attar", "svg.fonttype": "none", "font.size": 9})
    batches = list(next(iter(engines.values()))[0])
    figure, axes = pyplot.subplots(
        1, len(batches), figsize=(10, 4.8), sharey=True, layout="constrained", squeeze=False
    )
    for plot, batch in zip(axes[0], batches, strict=True):
        for number, (name, (seconds, correlation)) in enumerate(engines.items(), 1):
            colour = (
                "#b3412e"
                if name == picked[batch]
                else "#1f5f8b"
                if name.startswith("attar")
                else "#777777"
            )
            latency = 1e6 * float(np.median(seconds[batch]))
            plot.plot(
                latency,
                correlation,
                "o",
                color=colour,
                label=f"{number} {name}" if batch == batches[0] else None,
            )
            plot.annotate(
                str(number),
                (latency, correlation),
                xytext=(4, 4 if number % 2 else -12),
                textcoords="offset points",
                color=colour,
            )
        plot.set(xscale="log", xlabel="median µs a call, one thread", title=f"batch {batch}")
        plot.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plot.xaxis.set_major_formatter("{x:,g}")
        plot.xaxis.set_minor_formatter("")
        plot.margins(0.12)
        plot.grid(alpha=0.3)
    axes[0][0].set_ylabel("CORR with the teacher, test")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
