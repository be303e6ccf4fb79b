"""Latency, throughput and size of every hop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from attar.proof.ledger.ledger import Hop
from attar.proof.report import formatting
from attar.proof.report.figures import style
from attar.proof.report.figures.ledger import choose_colour
from attar.proof.report.figures.style import Panel
from attar.proof.report.target import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 25.0
"""Bars that differ by more than this factor are drawn on a logarithmic axis."""
SQUASHED = 3.0
"""As are bars with a whisker that is longer than the longest bar by this factor."""
Value = tuple[str, float]


def draw_panels(target: Target) -> list[Panel]:
    batch = target.ledger.batch if target.ledger else 1
    made = [
        draw_bars(
            target,
            "Latency, batch 1",
            read_latency(1, "p50"),
            formatting.format_microseconds,
            partial(describe_speed_ratio, target),
            read_latency(1, "p99"),
        ),
        draw_bars(
            target,
            f"Throughput, batch {batch}",
            read_latency(batch, "throughput"),
            formatting.format_count,
            partial(describe_throughput, target),
        ),
        draw_bars(
            target,
            "Size",
            lambda hop: hop.size_bytes,
            formatting.format_bytes,
            partial(describe_engine_ratio, "the teacher"),
        ),
    ]
    return [one for one in made if one is not None]


def read_latency(
    batch: int, name: Literal["p50", "p99", "throughput"]
) -> Callable[[Hop], float | None]:
    return lambda hop: getattr(hop.latencies.get(batch), name, None)


def draw_bars(
    target: Target,
    title: str,
    read: Callable[[Hop], float | None],
    said: Callable[[float | None], str],
    note: Callable[[str, Sequence[Value], str], str],
    tail: Callable[[Hop], float | None] | None = None,
) -> Panel | None:
    """A bar for every hop, its value beside it; ``tail`` (p99) is a tick beyond the bar."""
    found = [(hop, value) for hop in target.hops if (value := read(hop)) is not None and value > 0]
    if not found:
        return None
    values = [(hop.name, value) for hop, value in found]
    tails = [tail(hop) if tail else None for hop, _ in found]
    log = needs_logarithm([v for _, v in values], [t for t in tails if t])
    with style.house():
        figure, axes = style.rows_panel([name for name, _ in values], right=76)
        if log:
            axes.set_xscale("log")
        low = min(v for _, v in values) / 3 if log else 0.0
        axes.set_xlim(
            low, max([v for _, v in values] + [t for t in tails if t]) * (1.4 if log else 1.06)
        )
        for row, ((name, value), far) in enumerate(zip(values, tails, strict=True)):
            axes.barh(
                row, value - low, left=low, height=0.52, color=style.PAPER
            )  # hides the grid behind a pale bar
            axes.barh(
                row,
                value - low,
                left=low,
                height=0.52,
                color=choose_colour(name),
                alpha=1.0 if name == "engine" else 0.6,
            )
            if far and far > value:
                axes.plot([value, far], [row, row], color=style.MUTED, linewidth=1)
                axes.plot([far], [row], "|", color=style.MUTED, markersize=8)
            style.beside(axes, row, said(value))
        set_ticks(axes, said, log)
        drawn = style.svg(figure, f"{target.name}: {title} of every hop")
    return Panel(title, drawn, write_caption(target, title, values, log, note, tail is not None))


def needs_logarithm(values: Sequence[float], tails: Sequence[float]) -> bool:
    """Whether the values can only be compared on a logarithmic axis."""
    return max(values) > WIDE * min(values) or max(tails, default=0.0) > SQUASHED * max(values)


def set_ticks(axes: Axes, said: Callable[[float | None], str], log: bool) -> None:
    """Few ticks, in the same words as the values."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(base=10, numticks=5) if log else MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: said(value) if value else "0"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def write_caption(
    target: Target,
    title: str,
    values: Sequence[Value],
    log: bool,
    note: Callable[[str, Sequence[Value], str], str],
    tail: bool,
) -> str:
    devices = f" ({target.devices})" if target.devices else ""
    parts = {
        "Latency": f"Median time of a call on one pinned thread{devices}",
        "Throughput": f"Samples per second on one pinned thread{devices}",
        "Size": "Bytes on disk",
    }
    said = parts[title.split(",")[0]] + ("; the whisker ends at p99." if tail else ".")
    return " ".join(
        filter(
            None, [said, "The axis is logarithmic." if log else "", note(title, values, "engine")]
        )
    )


def select_comparable(target: Target, values: Sequence[Value], name: str) -> list[Value]:
    """Return the values of the hops that were timed on the same device as this one."""
    devices: dict[str, str] = {hop.name: hop.device for hop in target.hops}
    return [(hop, value) for hop, value in values if devices[hop] == devices.get(name)]


def describe_speed_ratio(target: Target, title: str, values: Sequence[Value], name: str) -> str:
    comparable = select_comparable(target, values, name)
    return describe_engine_ratio(target.timed_teacher, title, comparable, name)


def describe_engine_ratio(teacher: str, title: str, values: Sequence[Value], name: str) -> str:
    """How the engine stands against the reference and the teacher, in these words."""
    known = dict(values)
    words_of = ("smaller", "larger") if title == "Size" else ("faster", "slower")
    others = (("the reference", "reference"), (teacher, "teacher"))
    said = [
        f"{describe_ratio(known[hop] / known[name], *words_of)} than {text}"
        for text, hop in others
        if {name, hop} <= set(known)
    ]
    return f"The engine is {' and '.join(said)}." if said else ""


def describe_ratio(times: float, better: str, worse: str) -> str:
    return (
        f"{formatting.format_ratio(times)} {better}"
        if times >= 1
        else f"{formatting.format_ratio(1 / times)} {worse}"
    )


def describe_throughput(target: Target, title: str, values: Sequence[Value], name: str) -> str:
    known = dict(select_comparable(target, values, name))
    if name not in known or "reference" not in known:
        return ""
    ratio = formatting.format_ratio(known[name] / known["reference"])
    return f"The engine does {ratio} what the reference does."
