"""What the report says of bounds and gates, of the bundle in production, and of the control; and the picture of a gate."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.pipeline.report import terminal
from attar.pipeline.report.forest import LIMIT, Mark, mark
from attar.pipeline.report.html import html, tiles
from attar.pipeline.report.markdown import markdown
from attar.pipeline.report.production import production
from attar.pipeline.report.target import targets
from tests.report_facts import judged
from tests.report_records import Made, Page, changed, run_records, with_gate


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Made], str]:
    """A run that passed, and its page."""
    records = run_records(tmp_path_factory.mktemp("passed"))
    return records, html(records, "fashion")


def test_gates_show_promise_evidence_margin_and_verdict(passed: tuple[list[Made], str]) -> None:
    said = Page(passed[1]).words
    assert "score drop against the teacher at most 0.025 0.0150 0.0112 to 0.0188 +0.0100 passed" in said
    assert "largest difference against onnx at most 0.001 2.4e−06 +1.0e−03 passed" in said
    assert "onnx ONNX fp32 sound answers no NaN, no infinity, not constant yes passed" in said
    assert "one-sided 95 % bounds" in said
    assert 'title="from 2\u202f000 samples"' in passed[1]
    assert 'title="from 200 rounds"' in passed[1]


def test_undecided_says_at_once_what_would_decide(tmp_path: Path) -> None:
    page = Page(html(run_records(tmp_path, undecided=True), "fashion"))
    assert page.words.count("about 8,100 samples would decide") == 2, "in the banner and at the engine"
    assert "dd undecided" in page.classes


def told(records: Sequence[Made]) -> list[tuple[str, str]]:
    """The gates that the banner tells besides the summary."""
    return [(gate["gate"], gate["against"]) for gate in targets(records)[0].untold]


def test_banner_tells_what_the_summary_leaves_out(tmp_path: Path) -> None:
    """The summary tells of the correlation, at the model where it broke first."""
    records = run_records(tmp_path, broken=True, undecided=True)
    assert told(records) == [("agreement", "teacher"), ("score_drop", "teacher")]
    words = Page(html(records, "fashion")).words
    said = "Failed: engine agreement against the teacher: 0.8236 (0.8065 to 0.8407), promised at least 0.91."
    assert f"{said} Undecided: engine score drop against the teacher: 0.0231 (0.0193 to 0.0269)" in words
    assert "promised at most 0.025; about 8,100 samples would decide." in words


def test_summary_tells_the_first_undecided_gate(tmp_path: Path) -> None:
    records = run_records(tmp_path, undecided=True)
    assert told(records) == []
    assert told(with_gate(records, "engine", "correlation", verdict="undecided")) == [("correlation", "teacher")]
    assert told(run_records(tmp_path / "passed")) == []


def test_banner_is_no_longer_than_it_must(tmp_path: Path) -> None:
    records = run_records(tmp_path, undecided=True)
    gates = [{**gate, "verdict": "undecided"} if gate["gate"] == "sound" else gate for gate in targets(records)[0].gates]
    page = Page(html(changed(records, "cpu.verdict", gates=gates), "fashion"))
    assert len([name for name in page.classes if name == "li undecided"]) == 4 + 1, "and one in the legend"
    assert "And 1 more: see the gates." not in page.words
    records = with_gate(changed(records, "cpu.verdict", gates=gates), "engine", "correlation", verdict="undecided")
    assert "And 1 more: see the gates." in Page(html(records, "fashion")).words


def test_every_gate_with_a_limit_is_drawn(passed: tuple[list[Made], str]) -> None:
    """8 are about sound answers and sizes; they have no distance to a limit. Three more explain the picture."""
    target = targets(passed[0])[0]
    drawn = [gate for gate in target.traced if gate["gate"] not in ("sound", "sizes")]
    assert len(drawn) == len(target.deciding) - 8
    control = 1
    assert Page(passed[1]).classes.count("svg forest") == len(drawn) + control + 3


def test_note_stands_beside_the_number(tmp_path: Path) -> None:
    note = "at batch 1: shape [2, 10], expected [1, 10]"
    records = with_gate(run_records(tmp_path), "onnx", "sizes", verdict="failed", measured=1, margin=-1, note=note)
    assert f"no, 1 sizes {note} failed" in Page(html(records, "fashion")).words
    assert "no, 1 sizes: at batch 1: shape \\[2, 10\\], expected \\[1, 10\\]" in markdown(records, "fashion")


def test_ledger_shows_bounds_where_something_is_uncertain(passed: tuple[list[Made], str]) -> None:
    said = Page(passed[1]).words
    assert "student PyTorch fp32 0.9143 0.0128 0.0090 to 0.0166 0.9821 0.9803 to 0.9839 0.9445 0.9391 to 0.9499" in said
    assert "teacher PyTorch fp32 0.9271 0.0000 1.0000 1.0000 0" in said
    assert 'title="0.9039 to 0.9247">0.9143' in passed[1]


def test_whiskers_of_the_score_are_those_of_the_drop(tmp_path: Path) -> None:
    from attar.pipeline.report.figures import ledger

    target = targets(run_records(tmp_path))[0]
    assert ledger.lost(target.hop("engine"), 0.9271) == pytest.approx([0.9271 - 0.0188, 0.9271 - 0.0112])
    assert "whiskers: one-sided 95 % bounds of the drop." in ledger.panels(target)[0].caption


def test_bundle_in_production_stands_beside_the_chain(tmp_path: Path) -> None:
    records = run_records(tmp_path, production=True)
    page = Page(html(records, "fashion"))
    assert "score drop against the bundle in production at most 0.01 0.0012 −0.0026 to 0.0050 +0.0088 passed" in page.words
    assert "speedup against the bundle in production at least 1 1.21× 1.18× to 1.24× +0.210× passed" in page.words
    assert "Against the bundle in production The engine and the bundle that serves now" in page.words
    assert "dd passed" in page.classes
    said = markdown(records, "fashion")
    shown = "score drop 0.0012 (−0.0026 to 0.0050), CORR 0.9931 (0.9924 to 0.9938), agreement 0.9786 (0.9765 to 0.9807)"
    assert f"**Against the bundle in production**: {shown}, KDL " in said
    assert ", speedup 1.21× (1.18× to 1.24×)." in said
    assert "| production | ONNX Runtime int8 |" in said


def test_failed_against_production_leaves_the_tiles_about_the_teacher_alone(tmp_path: Path) -> None:
    records = run_records(tmp_path, production=True)
    gates = [{**each, "verdict": "failed"} if each["against"] == "production" else each for each in targets(records)[0].gates]
    target = targets(changed(records, "cpu.verdict", gates=gates))[0]
    assert {tile.name: tile.verdict for tile in tiles(target)}["accuracy"] == "passed"
    assert {one.name: one.verdict for one in production(target)} == {
        "score drop": "failed", "CORR": "", "agreement": "", "KDL": "", "speedup": "failed",
    }  # fmt: skip  # one line


@pytest.mark.parametrize(
    ("control", "answer", "said", "gain"),
    [
        (0.9096, "not needed", "Distillation was not needed: the same", "+0.0047 +0.0002 to +0.0092"),
        (0.9030, "undecided", "Whether distillation was needed is undecided", "+0.0113 +0.0068 to +0.0158"),
        (0.8900, "needed", "Distillation was needed: the same", "+0.0243 +0.0198 to +0.0288"),
        (0.9150, "not needed", "Distillation was not needed: the same", "−0.0007 −0.0052 to +0.0038"),
    ],
)
def test_what_the_control_says(tmp_path: Path, control: float, answer: str, said: str, gain: str) -> None:
    records = run_records(tmp_path, control=control)
    page = Page(html(records, "fashion"))
    assert f"Was the teacher needed? {answer} {said}" in page.words
    assert f"student, with the teacher 20 300 0.9143 0.9039 to 0.9247 {gain} 0.0128" in page.words
    assert ("Distillation was not needed. The same student" in page.words) == (answer == "not needed"), "in the banner"
    assert "Had the control made the promises" in page.words
    assert f"**The control**: {said}" in markdown(records, "fashion")


def test_without_a_control_nobody_knows(tmp_path: Path) -> None:
    records = changed(run_records(tmp_path), "cpu.verdict", distillation=None)
    assert "Nothing is promised that the control could keep" in Page(html(records, "fashion")).words
    hops = [hop for hop in targets(records)[0].hops if hop["hop"] != "control"]
    records = changed(records, "cpu.evidence", hops=hops, gain=None, control=None)
    assert "without a control: it was not measured." in Page(html(records, "fashion")).words
    assert "without a control: it was not measured." in markdown(records, "fashion")
    records = changed(records, "control", off=True)
    text = Page(html(records, "fashion")).words
    said = (
        "[control] enabled = true trains one, the same student on the labels alone, in about the 1 min 36 s that the student took"
    )
    assert f"Whether distillation was needed cannot be told without a control: none was trained; {said}" in text
    shown = io.StringIO()
    terminal.show(records, shown)
    assert (
        f"control: Whether distillation was needed cannot be told without a control: none was trained; {said}" in shown.getvalue()
    )
    assert said in markdown(records, "fashion").replace("\\", "")
    unlabelled = markdown(changed(records, "cpu.evidence", kinds={"vector": "embedding"}), "fashion").replace("\\", "")
    assert "cannot be told: embeddings have no labels" in unlabelled
    assert "enabled = true" not in unlabelled
    assert "student, with the teacher 20 300 0.9143 0.9039 to 0.9247 0.0128" in text


# the picture of a gate


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("score_drop", 0.025, 0.015, [0.010, 0.020]), Mark(36 + 58 * 10 / 15, 36 + 58 * 5 / 15, 94)),
        (("correlation", 0.95, 0.94, [0.93, 0.945]), Mark(36 - 32 / 2, 4, 36 - 32 / 4)),
        (("agreement", 0.9, 0.9, [0.8, 0.92]), Mark(36, 4, 36 + 320 * 0.02)),
        (("largest_difference", 1e-3, 5e-4), Mark(94, 94, 94)),
        (("score_drop", 0.0, 0.0, [0.0, 0.0]), None),
        (("sound", 0, 0, None, True, 1, "no NaN"), None),
    ],
)
def test_mark_of_a_gate(row: tuple[Any, ...], expected: Mark | None) -> None:
    name, *rest = row
    made = mark(judged(name, "engine", "teacher", *rest))
    if expected is None or made is None:
        assert made == expected
    else:
        assert (made.at, made.low, made.high) == pytest.approx((expected.at, expected.low, expected.high))


def test_gate_that_was_not_run_here_has_no_mark() -> None:
    assert mark({**judged("correlation", "engine", "teacher", 0.9, 0.95), "measured": None}) is None


NUMBER = st.floats(-10, 10).map(lambda value: round(value, 6))


@given(limit=NUMBER, ends=st.tuples(NUMBER, NUMBER, NUMBER).map(sorted), gate=st.sampled_from(["score_drop", "correlation"]))
def test_mark_shows_the_verdict(limit: float, ends: list[float], gate: str) -> None:
    """Its whisker lies right of the limit where the gate passed, left where it failed, over it otherwise; always in the room."""
    low, at, high = ends
    row = judged(gate, "engine", "teacher", limit, at, [low, high])
    made = mark(row)
    if made is None:
        assert low == high == limit
        return
    assert 4 - 1e-9 <= made.low <= made.at <= made.high <= 94 + 1e-9
    side = "passed" if made.low >= LIMIT else "failed" if made.high < LIMIT else "undecided"
    assert row["verdict"] == side
