"""The report for a pull request: a verdict, the ledger, and what broke."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attar.pipeline.report import gate, words
from attar.pipeline.report.record import Record, outcome
from attar.pipeline.report.target import Hop, Target, against, measured, number, targets

MARKS = {"passed": "✅", "failed": "❌", "undecided": "❔", "not run here": "➖"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def markdown(records: Sequence[Record], recipe_name: str) -> str:
    """GitHub-flavoured Markdown; every name from outside is escaped."""
    blocks = [f"# {escape(recipe_name)}"]
    for target in targets(records):
        blocks += target_blocks(target)
    failed = [record for record in records if outcome(record) == "failed"]
    if failed:
        blocks.append("## What broke")
        blocks += [f"**{escape(r.slot)}** ({escape(r.stage)})\n\n{fenced(r.error or 'it left no message')}" for r in failed]
    blocks.append(slots_line(records))
    return "\n\n".join(blocks) + "\n"


def target_blocks(target: Target) -> list[str]:
    mark = MARKS.get(target.verdict, "⚠️")
    blocks = [f"## {mark} {escape(target.name)}: {escape(target.verdict)}", escape(target.summary)]
    if target.hops:
        head = ("hop", "format", target.score_name, "drop", "CORR", "agreement", "p50 at batch 1", "size")
        blocks.append(table(head, [ledger_row(hop) for hop in target.hops]))
    if target.gates:
        broken = f" First broken hop: {escape(target.first_broken)}." if target.first_broken else ""
        blocks.append(f"Gates: {target.tally}.{broken}")
    if target.wrong:
        columns = ("gate", "against", "promise", "measured", "margin", "verdict")
        blocks.append(table(columns, [gate_row(target, each) for each in target.wrong]))
    return blocks


def ledger_row(hop: Hop) -> list[str]:
    name = f"{hop['format']} {hop['precision']}"
    if not measured(hop):
        return [hop["hop"], name, f"not run here: {hop.get('why') or 'no reason given'}", "", "", "", "", ""]
    return [
        hop["hop"],
        name,
        words.score(hop.get("score")),
        words.score(against(hop, "teacher", "score_drop")),
        words.score(against(hop, "teacher", "correlation")),
        words.score(against(hop, "teacher", "agreement")),
        words.micro(number(hop, "latency", "1", "p50")),
        words.size(hop.get("bytes")),
    ]


def gate_row(target: Target, of: gate.Gate) -> list[str]:
    said = [target.other(of), gate.promise(of), gate.measured(of), gate.margin(of)]
    return [f"{of['hop']}: {gate.name(of)}", *said, of["verdict"]]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell if cell == "---" else escape(cell) for cell in line) + " |" for line in lines)


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
