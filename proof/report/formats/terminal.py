"""The report for the terminal: the ledger of each target, and a line about its gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from attar.proof.ledger.candidates import CandidateChoice, CandidateResult
from attar.proof.ledger.ledger import Hop
from attar.proof.report import formatting, gate_formatting
from attar.proof.report.candidates import describe_trials, format_reason
from attar.proof.report.distiller import describe_distiller
from attar.proof.report.origin import explain_missing_control
from attar.proof.report.record import Record
from attar.proof.report.start import describe_start
from attar.proof.report.subsets import describe_subsets
from attar.proof.report.target import Target, group_targets

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES = {"passed": "green", "failed": "red", "undecided": "yellow", "not run here": "bright_black"}
UNWRAPPED = 10_000
"""Columns where nobody said how many there are: a pipe or a file."""


def print_ledger(records: Sequence[Record], file: IO[str] | None = None) -> None:
    """Print the ledger to ``file``, or to standard output.

    It is as wide as the terminal; without a terminal nothing is wrapped.
    """
    from rich.console import Console

    console = Console(file=file)
    if not console.is_terminal:
        console = Console(file=file, width=UNWRAPPED)
    console.print(render_ledger(records))


def render_ledger(records: Sequence[Record]) -> Group:
    """A rich renderable that fits 80 columns; names are text, never markup."""
    from rich.console import Group
    from rich.text import Text

    found = group_targets(records)
    parts: list[RenderableType] = [part for target in found for part in render_target(target)]
    if missing := explain_missing_control(found, records):
        parts.append(Text(f"control: {formatting.strip_controls(missing)}"))
    if start := describe_start(records):
        parts.append(Text(formatting.strip_controls(start)))
    if distiller := describe_distiller(records):
        parts.append(Text(formatting.strip_controls(distiller)))
    return Group(*parts)


def render_target(target: Target) -> list[RenderableType]:
    from rich.text import Text

    style = STYLES.get(target.verdict, "yellow")
    name, verdict, summary = map(
        formatting.strip_controls, (target.name, target.verdict, target.summary)
    )
    head = Text.assemble("\n", (name, "bold"), "  ", (verdict, f"bold {style}"), f"  {summary}")
    parts: list[RenderableType] = [head]
    if target.choice:
        parts.append(render_candidates(target.choice))
    if target.hops:
        parts.append(render_table(target))
    parts += [Text(formatting.strip_controls(line)) for line in describe_subsets(target)]
    if target.gates:
        parts.append(render_gates(target))
    return parts


def render_candidates(choice: CandidateChoice) -> Text:
    """Two lines for each: what it is and gave, and why it goes on or does not."""
    from rich.text import Text

    lines = Text(formatting.strip_controls(f"candidates: {describe_trials(choice)}"))
    for result in choice.candidates:
        is_measured, goes_on = result.status == "measured", result.name == choice.winner
        correlation = formatting.format_score(result.correlation)
        times, size = format_times(result, choice), formatting.format_bytes(result.size_bytes)
        numbers = f"CORR {correlation}, {times}, {size}" if is_measured else result.verdict
        style = "bold" if goes_on else "" if is_measured else "bright_black"
        head = formatting.strip_controls(f"{result.name} {result.title}: {numbers}")
        lines.append(f"\n  {head}", style)
        lines.append(f"\n    {'goes on: ' if goes_on else ''}{format_reason(result)}", style)
    return lines


def format_times(result: CandidateResult, choice: CandidateChoice) -> str:
    """Return the median times of one sample, and of the batch that the choice was made for."""
    single = f"p50 {formatting.format_microseconds(result.p50.get(1))}"
    if choice.batch == 1:
        return single
    batch = formatting.format_microseconds(result.p50.get(choice.batch))
    return f"{single}, {batch} at batch {choice.batch}"


def render_table(target: Target) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
    made.add_column("hop", no_wrap=True)
    made.add_column("format")  # the one that a narrow terminal may wrap
    batch = target.speed_batch
    time = "p50 µs" if batch == 1 else f"p50 µs at {batch}"
    for name in (target.score_name, "drop", "CORR", "agree", time, "size"):
        made.add_column(Text(name), justify="right", no_wrap=True)
    for hop in target.hops:
        style = "" if hop.was_run else "bright_black"
        made.add_row(
            *(
                Text(formatting.strip_controls(cell))
                for cell in list_cells(hop, target.find_p50(hop))
            ),
            style="red" if hop.name == target.first_broken else style,
        )
    return made


def list_cells(hop: Hop, p50: float | None) -> list[str]:
    model = [hop.name, hop.form]
    if not hop.was_run:
        return [*model, "not run", "here"]
    return [
        *model,
        formatting.format_score(hop.get_score()),
        formatting.format_score(hop.get_value("teacher", "score_drop")),
        formatting.format_score(hop.get_value("teacher", "correlation")),
        formatting.format_score(hop.get_value("teacher", "agreement")),
        formatting.DASH if p50 is None else f"{p50:.0f}" if p50 >= 100 else f"{p50:.1f}",
        formatting.format_bytes(hop.size_bytes),
    ]


def render_gates(target: Target) -> Text:
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
        lines.append(f"\nfirst broken hop: {formatting.strip_controls(target.first_broken)}")
    if target.control:
        summary = formatting.typeset_minus(target.control.summary)
        lines.append(f"\ncontrol: {formatting.strip_controls(summary)}")
    return lines
