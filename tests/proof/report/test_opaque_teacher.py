"""Reports of a teacher that only translates: no reference, no time, no CORR and no KDL, and the rest as ever."""

from __future__ import annotations

import re
from pathlib import Path

from attar.proof.report.formats.html import render_html
from attar.proof.report.formats.markdown import render_markdown
from tests.support.proof.report_records import Made, ParsedPage, changed, hop_rows, printed, run_records

UNKNOWN = dict.fromkeys(("correlation", "correlation_per_sample", "correlation_probabilities", "kdl"))


def make_opaque(records: list[Made]) -> list[Made]:
    rows = [row for row in hop_rows(records) if row["hop"] != "reference"]
    rows = [{**row, "teacher": {**row["teacher"], **UNKNOWN}} for row in rows]
    rows[0] |= {
        "format": "a function of texts",
        "precision": "",
        "latency": {},
        "bytes": None,
        "memory": None,
        "parameters": None,
    }
    about = {"speedup": {"bounds": {}, "rounds": 0}, "opaque": "rules.py:translate only translates"}
    return changed(records, "cpu.evidence", hops=rows, **about)


def test_every_form_shows_what_was_measured_and_a_dash_for_the_rest(tmp_path: Path) -> None:
    records = make_opaque(run_records(tmp_path))
    rows = render_markdown(records, "numbers").splitlines()
    (teacher,) = [row for row in rows if row.startswith("| teacher | a function of texts |")]
    (engine,) = [row for row in rows if row.startswith("| engine | ONNX Runtime int8 |")]
    assert teacher.split(" | ")[4:] == ["–", "1.0000", "–", "– |"]
    assert engine.split(" | ")[4] == "–"
    assert re.search(r"teacher +a function of texts +0\.9271 +0\.0000 +– +1\.0000 +– +–", printed(records))
    assert "a function of texts" in ParsedPage(render_html(records, "numbers")).text
    assert not any(row.startswith("| reference") for row in rows)
