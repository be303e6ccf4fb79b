"""What the reports say of a warm start."""

from __future__ import annotations

from pathlib import Path

from attar.proof.report.formats.html import render_html
from attar.proof.report.formats.markdown import render_markdown
from attar.proof.report.start import describe_start
from tests.support.proof.report_records import ParsedPage, changed, printed, run_records

FOUND = {"key": "0a1b2c3d4e5f" + "0" * 52, "matched": 12, "parameters": 0.8123, "other": []}
SAID = "The student started from 0a1b2c3d4e5f: 12 tensors, 81 % of its parameters."


def test_a_start_from_nothing_is_not_mentioned(tmp_path: Path) -> None:
    assert describe_start(run_records(tmp_path)) is None


def test_every_report_says_what_matched(tmp_path: Path) -> None:
    records = changed(run_records(tmp_path), "student", started_from=FOUND)
    assert describe_start(records) == SAID
    assert SAID in printed(records)
    assert SAID in render_markdown(records, "fashion")
    assert SAID in ParsedPage(render_html(records, "fashion")).text


def test_the_first_that_did_not_match_are_named(tmp_path: Path) -> None:
    other = ["fc.weight: [10, 4] there, [10, 8] here", "a.bias: not there", "b.bias: not there", "c.bias: not there"]
    records = changed(run_records(tmp_path), "student", started_from={**FOUND, "other": other})
    assert describe_start(records) == f"{SAID} Not from it: {other[0]}; {other[1]}; {other[2]}; and 1 more."
