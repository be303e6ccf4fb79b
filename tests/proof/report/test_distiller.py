"""What the reports say of the distiller."""

from __future__ import annotations

from pathlib import Path

from attar.proof.report.distiller import describe_distiller
from attar.proof.report.formats.html import render_html
from attar.proof.report.formats.markdown import render_markdown
from tests.support.proof.report_records import ParsedPage, changed, printed, run_records

SAID = "The student's KL divergence from its distiller was 0.0512, and the distiller's accuracy 0.9340, on the training samples"


def test_every_report_has_the_divergence_from_the_distiller(tmp_path: Path) -> None:
    plain = run_records(tmp_path)
    assert describe_distiller(plain) is None
    records = changed(plain, "student", distiller_kdl=0.05121, distiller_score=0.934)
    assert str(describe_distiller(records)).startswith(SAID)
    assert SAID in " ".join(printed(records).split())
    assert SAID in render_markdown(records, "fashion")
    assert SAID in ParsedPage(render_html(records, "fashion")).text
