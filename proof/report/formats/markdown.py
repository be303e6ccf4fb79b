"""The report for a pull request: a verdict, the ledger, and what broke."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attar.proof.gate import Gate, Metric
from attar.proof.ledger.candidates import CandidateChoice, CandidateResult
from attar.proof.ledger.ledger import Hop
from attar.proof.report import formatting, gate_formatting
from attar.proof.report.candidates import describe_trials, format_reason
from attar.proof.report.distiller import describe_distiller
from attar.proof.report.origin import explain_missing_control
from attar.proof.report.production import NAMES, list_production_comparisons
from attar.proof.report.record import Record, describe_status
from attar.proof.report.start import describe_start
from attar.proof.report.subsets import describe_subsets
from attar.proof.report.target import Target, group_targets
from attar.proof.verdicts.gate_text import format_missing_evidence

DROP_AND_CORRELATION: Sequence[Metric] = ("score_drop", "correlation")
MARKS = {"passed": "✅", "failed": "❌", "undecided": "❔", "not run here": "➖"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def render_markdown(records: Sequence[Record], recipe_name: str) -> str:
    """GitHub-flavoured Markdown; every name from outside is escaped."""
    blocks = [f"# {escape_markdown(recipe_name)}"]
    found = group_targets(records)
    for target in found:
        blocks += render_target(target)
    if missing := explain_missing_control(found, records):
        blocks.append(f"**The control**: {escape_markdown(missing)}")
    failed = [record for record in records if describe_status(record) == "failed"]
    if failed:
        blocks.append("## What broke")
        blocks += [render_failure(record) for record in failed]
    if start := describe_start(records):
        blocks.append(escape_markdown(start))
    if distiller := describe_distiller(records):
        blocks.append(escape_markdown(distiller))
    blocks.append(count_slots(records))
    return "\n\n".join(blocks) + "\n"


def render_failure(record: Record) -> str:
    title = f"**{escape_markdown(record.slot)}** ({escape_markdown(record.stage)})"
    return f"{title}\n\n{fence_text(record.error or 'it left no message')}"


def render_target(target: Target) -> list[str]:
    mark = MARKS.get(target.verdict, "⚠️")
    blocks = [
        f"## {mark} {escape_markdown(target.name)}: {escape_markdown(target.verdict)}",
        escape_markdown(target.summary),
    ]
    if target.control:
        summary = formatting.format_sentence(target.control.summary)
        blocks.append(f"**The control**: {escape_markdown(summary)}")
    if target.hops:
        head = (
            "hop",
            "format",
            target.score_name,
            "drop",
            "CORR",
            "agreement",
            f"p50 at batch {target.speed_batch}",
            "size",
        )
        rows = [render_ledger_row(hop, target.find_p50(hop)) for hop in target.hops]
        blocks.append(render_table(head, rows))
    blocks += [escape_markdown(line) for line in describe_subsets(target)]
    if target.choice:
        blocks += render_candidates(target.choice)
    if production := list_production_comparisons(target):
        text = ", ".join(
            f"{NAMES[comparison.metric]} {gate_formatting.format_evidence(comparison)}"
            for comparison in production
        )
        blocks.append(f"**Against the bundle in production**: {escape_markdown(text)}.")
    return blocks + render_gates(target)


def render_candidates(choice: CandidateChoice) -> list[str]:
    head = (
        "candidate",
        "",
        choice.score_name,
        "drop",
        "CORR",
        "p50 at batch 1",
        f"batch {choice.batch}",
    )
    rows = [render_candidate_row(result, choice) for result in choice.candidates]
    return [
        f"**The candidates**: {escape_markdown(describe_trials(choice))}",
        render_table((*head, "size", "why"), rows),
    ]


def render_candidate_row(result: CandidateResult, choice: CandidateChoice) -> list[str]:
    reason = format_reason(result)
    return [
        f"{result.name}: {result.title}",
        f"{MARKS.get(result.verdict, '🚫')} {result.verdict}",
        formatting.format_score(result.score),
        formatting.format_score(result.score_drop),
        formatting.format_score(result.correlation),
        formatting.format_microseconds(result.p50.get(1)),
        formatting.format_microseconds(result.p50.get(choice.batch)),
        formatting.format_bytes(result.size_bytes),
        f"goes on: {reason}" if result.name == choice.winner else reason,
    ]


def render_ledger_row(hop: Hop, p50: float | None) -> list[str]:
    model = [hop.name, hop.form]
    if not hop.was_run:
        return [*model, f"not run here: {hop.why_not_run or 'no reason given'}", *[""] * 5]
    drop, correlation = (
        formatting.format_bounded(
            hop.get_value("teacher", metric), hop.get_bounds("teacher", metric)
        )
        for metric in DROP_AND_CORRELATION
    )
    return [
        *model,
        formatting.format_bounded(hop.get_score(), hop.get_score_bounds()),
        drop,
        correlation,
        formatting.format_score(hop.get_value("teacher", "agreement")),
        formatting.format_microseconds(p50),
        formatting.format_bytes(hop.size_bytes),
    ]


def render_gates(target: Target) -> list[str]:
    """What is not passed in sight, the rest folded away."""
    if not target.gates:
        return []
    broken = (
        f" First broken hop: {escape_markdown(target.first_broken)}." if target.first_broken else ""
    )
    blocks = [f"Gates: {target.tally}.{broken} {gate_formatting.BOUNDS_EXPLANATION}"]
    if target.open_gates:
        blocks.append(render_gates_table(target.open_gates))
    blocks.append(f"<details><summary>All {len(target.required_gates)} gates</summary>")
    return [*blocks, render_gates_table(target.required_gates), "</details>"]


def render_gates_table(gates: Sequence[Gate]) -> str:
    head = ("hop", "gate", "promise", "measured", "margin", "verdict", "what would decide")
    return render_table(head, [render_gate_row(gate) for gate in gates])


def render_gate_row(gate: Gate) -> list[str]:
    return [
        gate.comparison.hop,
        gate_formatting.format_title(gate.comparison),
        gate_formatting.format_promise(gate),
        gate_formatting.format_evidence_and_note(gate),
        gate_formatting.format_margin(gate),
        f"{MARKS[gate.verdict]} {gate.verdict}",
        format_missing_evidence(gate) or "",
    ]


def render_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else escape_markdown(cell) for cell in line) + " |"
        for line in lines
    )


def count_slots(records: Sequence[Record]) -> str:
    statuses = [describe_status(record) for record in records]
    counts = [f"{statuses.count(each)} {each}" for each in dict.fromkeys(statuses)]
    return f"Slots: {', '.join(counts) or 'none'}."


def escape_markdown(text: str) -> str:
    """On one line, and nothing in it is markup."""
    return SPECIAL.sub(r"\\\1", " ".join(formatting.strip_controls(text).split()))


def fence_text(text: str) -> str:
    """A code block whose fence is longer than any in the text."""
    clean = formatting.strip_controls(text).strip()
    longest = max((len(run) for run in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{clean}\n{fence}"
