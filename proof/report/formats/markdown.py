"""The report for a pull request: a verdict, the ledger, and what broke."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attar.proof.gate import Gate
from attar.proof.gate_text import format_missing_evidence
from attar.proof.report import gate_formatting, words
from attar.proof.report.candidates import candidates, tried
from attar.proof.report.origin import explain_missing_control
from attar.proof.report.production import production
from attar.proof.report.record import Record, outcome
from attar.proof.report.start import started
from attar.proof.report.target import Hop, Target, against, bounds, measured, number, targets

MARKS = {"passed": "✅", "failed": "❌", "undecided": "❔", "not run here": "➖"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def markdown(records: Sequence[Record], recipe_name: str) -> str:
    """GitHub-flavoured Markdown; every name from outside is escaped."""
    blocks = [f"# {escape(recipe_name)}"]
    found = targets(records)
    for target in found:
        blocks += target_blocks(target)
    if missing := explain_missing_control(found, records):
        blocks.append(f"**The control**: {escape(missing)}")
    failed = [record for record in records if outcome(record) == "failed"]
    if failed:
        blocks.append("## What broke")
        blocks += [
            f"**{escape(r.slot)}** ({escape(r.stage)})\n\n{fenced(r.error or 'it left no message')}"
            for r in failed
        ]
    if start := started(records):
        blocks.append(escape(start))
    blocks.append(slots_line(records))
    return "\n\n".join(blocks) + "\n"


def target_blocks(target: Target) -> list[str]:
    mark = MARKS.get(target.verdict, "⚠️")
    blocks = [f"## {mark} {escape(target.name)}: {escape(target.verdict)}", escape(target.summary)]
    if target.control:
        blocks.append(f"**The control**: {escape(words.sentence(target.control.summary))}")
    if target.hops:
        head = (
            "hop",
            "format",
            target.score_name,
            "drop",
            "CORR",
            "agreement",
            "p50 at batch 1",
            "size",
        )
        blocks.append(table(head, [ledger_row(hop) for hop in target.hops]))
    if target.candidates:
        blocks += candidates_blocks(target)
    if target.production:
        said = ", ".join(f"{one.name} {one.shown}" for one in production(target))
        blocks.append(f"**Against the bundle in production**: {escape(said)}.")
    return blocks + gates_blocks(target)


def candidates_blocks(target: Target) -> list[str]:
    head = (
        "candidate",
        "",
        target.choice["score_name"],
        "drop",
        "CORR",
        "p50 at batch 1",
        f"batch {target.choice['batch']}",
    )
    rows = [
        [
            f"{each.name}: {each.title}", f"{MARKS.get(each.verdict, '🚫')} {each.verdict}", each.score, each.drop,
            each.correlation, each.p50, each.batched, each.size, f"goes on: {each.reason}" if each.goes_on else each.reason,
        ]
        for each in candidates(target)
    ]  # fmt: skip  # the columns of a table
    return [f"**The candidates**: {escape(tried(target))}", table((*head, "size", "why"), rows)]


def ledger_row(hop: Hop) -> list[str]:
    name = f"{hop['format']} {hop['precision']}"
    if not measured(hop):
        return [
            hop["hop"],
            name,
            f"not run here: {hop.get('why') or 'no reason given'}",
            "",
            "",
            "",
            "",
            "",
        ]
    return [
        hop["hop"],
        name,
        words.bracketed(number(hop, "score"), hop["score_bounds"]),
        *(
            words.bracketed(against(hop, "teacher", each), bounds(hop, "teacher", each))
            for each in ("score_drop", "correlation")
        ),
        words.score(against(hop, "teacher", "agreement")),
        words.micro(number(hop, "latency", "1", "p50")),
        words.size(hop.get("bytes")),
    ]


def gates_blocks(target: Target) -> list[str]:
    """What is not passed in sight, the rest folded away."""
    if not target.gates:
        return []
    broken = f" First broken hop: {escape(target.first_broken)}." if target.first_broken else ""
    blocks = [f"Gates: {target.tally}.{broken} {gate_formatting.BOUNDS_EXPLANATION}"]
    if target.open_gates:
        blocks.append(gates_table(target.open_gates))
    blocks.append(f"<details><summary>All {len(target.required_gates)} gates</summary>")
    return [*blocks, gates_table(target.required_gates), "</details>"]


def gates_table(gates: Sequence[Gate]) -> str:
    head = ("hop", "gate", "promise", "measured", "margin", "verdict", "what would decide")
    return table(head, [gate_row(gate) for gate in gates])


def gate_row(gate: Gate) -> list[str]:
    return [
        gate.comparison.hop,
        gate_formatting.format_title(gate.comparison),
        gate_formatting.format_promise(gate),
        gate_formatting.format_evidence_and_note(gate),
        gate_formatting.format_margin(gate),
        f"{MARKS[gate.verdict]} {gate.verdict}",
        format_missing_evidence(gate) or "",
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else escape(cell) for cell in line) + " |"
        for line in lines
    )


def slots_line(records: Sequence[Record]) -> str:
    statuses = [outcome(record) for record in records]
    counts = [f"{statuses.count(each)} {each}" for each in dict.fromkeys(statuses)]
    return f"Slots: {', '.join(counts) or 'none'}."


def escape(text: str) -> str:
    """On one line, and nothing in it is markup."""
    return SPECIAL.sub(r"\\\1", " ".join(words.clean(text).split()))


def fenced(text: str) -> str:
    """A code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{words.clean(text).strip()}\n{fence}"
