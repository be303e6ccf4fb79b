"""The report for the terminal: the ledger of each target, and a line about its gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from attar.proof.report import gate_formatting, words
from attar.proof.report.candidates import candidates, tried
from attar.proof.report.origin import explain_missing_control
from attar.proof.report.record import Record
from attar.proof.report.start import started
from attar.proof.report.target import Hop, Target, against, measured, number, targets

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES = {"passed": "green", "failed": "red", "undecided": "yellow", "not run here": "bright_black"}
UNWRAPPED = 10_000
"""Columns where nobody said how many there are: a pipe or a file."""


def show(records: Sequence[Record], file: IO[str] | None = None) -> None:
    """Print the ledger to ``file``, or to standard output: as wide as a terminal is, and nothing is wrapped where none is."""
    from rich.console import Console

    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=UNWRAPPED)
    console.print(ledger(records))


def ledger(records: Sequence[Record]) -> Group:
    """A rich renderable that fits 80 columns; names are text, never markup."""
    from rich.console import Group
    from rich.text import Text

    found = targets(records)
    parts: list[RenderableType] = [part for target in found for part in of_target(target)]
    if missing := explain_missing_control(found, records):
        parts.append(Text(f"control: {words.clean(missing)}"))
    if start := started(records):
        parts.append(Text(words.clean(start)))
    return Group(*parts)


def of_target(target: Target) -> list[RenderableType]:
    from rich.text import Text

    style = STYLES.get(target.verdict, "yellow")
    head = Text.assemble(
        "\n", (target.name, "bold"), "  ", (target.verdict, f"bold {style}"), f"  {target.summary}"
    )
    parts: list[RenderableType] = [head]
    if target.candidates:
        parts.append(candidates_lines(target))
    if target.hops:
        parts.append(table(target))
    if target.gates:
        parts.append(gates_lines(target))
    return parts


def candidates_lines(target: Target) -> Text:
    """Two lines for each: what it is and gave, and why it goes on or does not."""
    from rich.text import Text

    lines = Text(f"candidates: {tried(target)}")
    for each in candidates(target):
        gave = (
            f"CORR {each.correlation}, p50 {each.p50}, {each.size}"
            if each.measured
            else each.verdict
        )
        style = "bold" if each.goes_on else "" if each.measured else "bright_black"
        lines.append(f"\n  {each.name} {each.title}: {gave}", style)
        lines.append(f"\n    {'goes on: ' if each.goes_on else ''}{each.reason}", style)
    return lines


def table(target: Target) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
    made.add_column("hop", no_wrap=True)
    made.add_column("format")  # the one that a narrow terminal may wrap
    for name in (target.score_name, "drop", "CORR", "agree", "p50 µs", "size"):
        made.add_column(Text(name), justify="right", no_wrap=True)
    for hop in target.hops:
        style = (
            "red" if hop["hop"] == target.first_broken else "" if measured(hop) else "bright_black"
        )
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
        words.score(against(hop, "teacher", "score_drop")),
        words.score(against(hop, "teacher", "correlation")),
        words.score(against(hop, "teacher", "agreement")),
        words.DASH if p50 is None else f"{p50:.0f}" if p50 >= 100 else f"{p50:.1f}",
        words.size(hop.get("bytes")),
    ]


def gates_lines(target: Target) -> Text:
    """Return the tally, two lines for each open gate, the first broken hop, and the control."""
    from rich.text import Text

    lines = Text(f"gates: {target.tally}")
    for gate in target.open_gates:
        claim = gate_formatting.format_claim(gate.comparison)
        evidence = gate_formatting.format_evidence(gate.comparison)
        kept = f"{evidence}, {gate_formatting.format_promise(gate)}"
        details = "; ".join(filter(None, [kept, gate_formatting.format_details(gate)]))
        lines.append(f"\n  {gate.verdict}: {claim}", STYLES[gate.verdict])
        lines.append(f"\n    {details}")
    if target.first_broken:
        lines.append(f"\nfirst broken hop: {words.clean(target.first_broken)}")
    if target.control:
        lines.append(f"\ncontrol: {words.clean(words.minus(target.control.summary))}")
    return lines
