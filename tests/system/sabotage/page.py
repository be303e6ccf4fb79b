"""``docs/sabotage.md``: every fault, where it was caught and by which evidence; what was missed comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attar.pipeline.keys import machine
from attar.pipeline.run import Record
from tests.system.sabotage.case import Case
from tests.system.sabotage.lab import Found, Lab

PAGE = Path(__file__).parents[3] / "docs" / "sabotage.md"
LONGEST = 150  # characters of a message that a table shows
PLACES = {"teacher", "reference", "student", "onnx", "model", "engine"}
Row = tuple[str, str, str, str]
"""Group, fault, where it was caught, ``caught`` or ``missed``."""
Results = Mapping[str, Sequence[tuple[Case, Found]]]


def page(results: Results, made: tuple[Sequence[Record], Sequence[Record], Sequence[Record]], seconds: float, lab: Lab) -> str:
    healthy, sentences, kinds = made
    count = len(faults(results))
    missed = [f"- {group}: {case.fault} ({case.missed})." for group, each in results.items() for case, _ in each if case.missed]
    return f"""# Sabotage

Nothing broken should get through; this page says what does. `python -m tests.system.sabotage` puts {count} faults, one at a time,
into the real pipeline on a recipe of seconds (`tests/system/sabotage/project`: digits of 8x8 pixels, a residual teacher network,
a student with a tenth of its parameters, int8), notes how each run ended, and writes this page. Faults of sequences have a recipe
of their own (`tests/system/sabotage/sentences`: numbers spelled digit by digit, a translator, a smaller one, int8 weights), and
so have those of several labels a sample and a class at each pixel (`tests/system/sabotage/kinds`: attributes of digits, ink). All
stages are the real ones but for the one that is spoilt, and what a model of the same bytes answers is asked for once; a bundle is
spoilt in a copy and given to `attar check`, a signed one with `--trusted`, or to `attar sign`. `make test-all` holds every line
below to its exit code and its place, the misses too: when something is found that catches one, the test says so. `make test`
holds some of them.

{count - len(missed)} of {count} are caught. Exit codes: 1 a stage broke, 3 a gate refused, 4 a bundle was refused.
Measured on {machine.describe_machine()["cpu"]}, one thread, {datetime.now(UTC):%d %B %Y}, in {seconds:.0f} seconds.

Without a fault every promise is kept, here with its bounds (one-sided, 95 %):

| hop | gate | promise | measured | bounds |
| --- | --- | --- | --- | --- |
{chr(10).join(promises(healthy))}

And of the recipe for sequences:

| hop | gate | promise | measured | bounds |
| --- | --- | --- | --- | --- |
{chr(10).join(promises(sentences))}

And of the recipe for several labels a sample and a class at each pixel:

| hop | gate | promise | measured | bounds |
| --- | --- | --- | --- | --- |
{chr(10).join(promises(kinds))}

## Missed

{chr(10).join(missed)}

{chr(10).join(section(group, each, lab) for group, each in results.items())}"""


def promises(records: Sequence[Record]) -> Iterator[str]:
    """What the recipe promises, and what was measured."""
    gates = next(record.facts for record in records if record.slot == "cpu.verdict")["gates"]
    for gate in gates:
        if gate["decides"] and gate["bounds"] and gate["against"] != "previous":
            yield line(gate["hop"], gate["gate"].replace("_", " "), gate["promise"], f"{gate['measured']:.4g}", between(gate))


def between(gate: Mapping[str, Any]) -> str:
    low, high = gate["bounds"]
    return f"{low:.4g} to {high:.4g}"


def section(group: str, results: Sequence[tuple[Case, Found]], lab: Lab) -> str:
    rows = [row(case, found, lab) for case, found in results]
    head = [line("fault", "caught at", "exit code", "evidence", "outcome"), line(*["---"] * 5)]
    return "\n".join([f"## {group}", "", *head, *rows, ""])


def row(case: Case, found: Found, lab: Lab) -> str:
    evidence = case.missed or short(found.evidence, lab)
    return line(case.fault, case.where, str(found.code), evidence, "missed" if case.missed else "caught")


def line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def short(evidence: str, lab: Lab) -> str:
    """Without what is another on every machine: the store's place and its keys."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "KEY", evidence.replace(f"{lab.store.parent}/", "")).replace(
        "attar.pipeline.core.errors.", ""
    )
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rsplit(' ', 1)[0]} ..."


def faults(results: Results) -> list[tuple[str, Case]]:
    return [(group, case) for group, each in results.items() for case, _ in each]


def expected(cases: Mapping[str, Sequence[Case]]) -> list[Row]:
    """The rows that the page must have."""
    listed = [(group, case) for group, each in cases.items() for case in each]
    return [(group, case.fault, case.where, "missed" if case.missed else "caught") for group, case in listed]


def rows(text: str) -> list[Row]:
    """The rows that a page has."""
    found, group = [], ""
    for each in text.splitlines():
        group = each.removeprefix("## ") if each.startswith("## ") else group
        cells = [cell.strip() for cell in each.strip("|").split("|")]
        if cells[-1] in ("caught", "missed"):
            found.append((group, cells[0], cells[1], cells[-1]))
    return found
