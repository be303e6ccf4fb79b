"""What a report says of the subsets of the test samples."""

from __future__ import annotations

from pathlib import Path

from attar.proof.report.formats.html import render_html
from attar.proof.report.formats.markdown import render_markdown
from tests.support.proof.report_records import ParsedPage, changed, hop_rows, printed, run_records

SAID = "accuracy on the subset night <b> (1,234 samples): teacher 0.8000 (0.7700 to 0.8300), engine 0.7500 (0.7200 to 0.7800)."


def test_every_form_says_the_score_on_each_subset(tmp_path: Path) -> None:
    records = run_records(tmp_path)
    score = {"teacher": 0.8, "engine": 0.75}
    rows = [
        {**row, "subsets": {"night <b>": {"score": at, "bounds": [at - 0.03, at + 0.03], "samples": 1234}}}
        if (at := score.get(row["hop"]))
        else row
        for row in hop_rows(records)
    ]
    seen = changed(records, "cpu.evidence", hops=rows)
    assert SAID in " ".join(ParsedPage(render_html(seen, "fashion")).text.split())
    assert SAID.replace("<b>", r"\<b\>") in render_markdown(seen, "fashion")
    assert SAID in " ".join(printed(seen).split())


def test_without_subsets_nothing_is_said(tmp_path: Path) -> None:
    assert "subset" not in render_markdown(run_records(tmp_path), "fashion")
