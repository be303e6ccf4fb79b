"""The report for the terminal: the ledger of each target, and a line about its gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attar.pipeline.report import words
from attar.pipeline.report.record import Record
from attar.pipeline.report.target import Gate, Hop, Target, against, decides, measured, number, targets

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES = {"passed": "green", "failed": "red", "undecided": "yellow", "not run here": "bright_black"}


def ledger(records: Sequence[Record]) -> Group:
    """A rich renderable that fits 80 columns; names are text, never markup."""
    from rich.console import Group

    return Group(*(part for target in targets(records) for part in of_target(target)))


def of_target(target: Target) -> list[RenderableType]:
    from rich.text import Text

    style = STYLES.get(target.verdict, "yellow")
    head = Text.assemble("\n", (target.name, "bold"), "  ", (target.verdict, f"bold {style}"), f"  {target.summary}")
    parts: list[RenderableType] = [head]
    if target.hops:
        parts.append(table(target))
    if target.gates:
        parts.append(gates_line(target))
    return parts


def table(target: Target) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bright_black")
    made.add_column("hop", no_wrap=True)
    made.add_column("format", no_wrap=True)
    for name in (target.score_name, "drop", "CORR", "agree", "p50 µs", "size"):
        made.add_column(Text(name), justify="right", no_wrap=True)
    for hop in target.hops:
        style = "red" if hop["hop"] == target.first_broken else "" if measured(hop) else "bright_black"
        made.add_row(*(Text(words.clean(cell)) for cell in cells(hop)), style=style)
    return made


def cells(hop: Hop) -> list[str]:
    if not measured(hop):
        return [hop["hop"], f"{hop['format']} {hop['precision']}", "not run", "here"]
    p50 = number(hop, "latency", "1", "p50")
    return [
        hop["hop"],
        f"{hop['format']} {hop['precision']}",
        words.score(hop.get("score")),
        words.drop(against(hop, "teacher", "score_drop")),
        words.score(against(hop, "teacher", "correlation")),
        words.score(against(hop, "teacher", "agreement")),
        words.DASH if p50 is None else f"{p50:.0f}" if p50 >= 100 else f"{p50:.1f}",
        words.size(hop.get("bytes")),
    ]


def gates_line(target: Target) -> Text:
    """``gates: 12 passed, 1 failed (engine correlation 0.9430, at least 0.95)``."""
    from rich.text import Text

    counts = Counter(str(gate["verdict"]) for gate in target.gates if decides(gate))
    line = Text("gates: ")
    line.append(", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
    for gate in target.wrong:
        line.append(f"\n  {said(gate)}", STYLES[gate["verdict"]])
    return line


def said(gate: Gate) -> str:
    margin = f", margin {words.signed(gate['margin'])}" if gate["margin"] is not None else ""
    return words.clean(
        f"{gate['hop']} {gate['gate']} {words.of_gate(gate['gate'], gate['measured'])}, promised {gate['promise']}{margin}"
    )
