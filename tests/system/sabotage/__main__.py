"""``python -m tests.system.sabotage``: put every fault in and write docs/sabotage.md.

The exit code is 1 where a fault did not end as it should.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import click

from tests.system.sabotage.case import Case
from tests.system.sabotage.lab import Found, Lab, steady
from tests.system.sabotage.page import PAGE, Results, page
from tests.system.sabotage.registry import CASES


def main() -> None:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, steady():
        lab = Lab(Path(folder) / "store")
        healthy, sentences, kinds = (each.healthy() for each in (lab, lab.of_sentences, lab.of_kinds))
        results: Results = {group: [(case, tried(group, case, lab)) for case in cases] for group, cases in CASES.items()}
        text = page(results, (healthy, sentences, kinds), time.perf_counter() - started, lab)
    wrong = [case.fault for each in results.values() for case, found in each if not case.came_true(found)]
    if wrong:
        sys.exit(f"not as expected, {PAGE.name} is not written: {'; '.join(wrong)}")
    PAGE.write_text(text, encoding="utf-8")
    click.echo(f"wrote {PAGE}")


def tried(group: str, case: Case, lab: Lab) -> Found:
    started = time.perf_counter()
    found = case.inject(lab)
    outcome = ("missed" if case.missed else "caught") if case.came_true(found) else "UNEXPECTED"
    click.echo(f"{time.perf_counter() - started:5.1f} s  {outcome:<10}  {group}: {case.fault}  {found.where}")
    return found


if __name__ == "__main__":
    main()
