"""What the report says of bounds and gates, of the bundle in production, and of the control; and the picture of a gate."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.gate import Comparison, Gate, Metric
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.report.forest import LIMIT_PERCENT, Mark, place_mark
from attar.proof.report.formats import terminal
from attar.proof.report.formats.html import list_tiles, render_html
from attar.proof.report.formats.markdown import render_markdown
from attar.proof.report.production import NAMES, list_production_comparisons
from attar.proof.report.target import Target, group_targets
from attar.proof.verdicts.gate_evaluation import evaluate_gates
from attar.proof.verdicts.limits import GateLimits
from attar.proof.verdicts.verdict import judge_target
from attar.proof.verdicts.verdict_json import verdict_to_json
from tests.support.proof.proof_parts import a_ledger, line, metrics
from tests.support.proof.report_facts import judged
from tests.support.proof.report_records import (
    Made,
    ParsedPage,
    changed,
    gate_rows,
    hop_rows,
    run_records,
    with_gate,
    with_wide_bounds,
)


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Made], str]:
    """A run that passed, and its page."""
    records = run_records(tmp_path_factory.mktemp("passed"))
    return records, render_html(records, "fashion")


def test_gates_show_promise_evidence_margin_and_verdict(passed: tuple[list[Made], str]) -> None:
    said = ParsedPage(passed[1]).words
    assert "score drop against the teacher at most 0.025 0.0150 0.0112 to 0.0188 +0.0100 passed" in said
    assert "largest difference against onnx at most 0.001 2.4e−06 +1.0e−03 passed" in said
    assert "onnx ONNX fp32 sound answers no NaN, no infinity, not constant yes passed" in said
    assert "one-sided 95 % bounds" in said
    assert 'title="from 2\u202f000 samples"' in passed[1]
    assert 'title="from 200 rounds"' in passed[1]


def test_undecided_says_at_once_what_would_decide(tmp_path: Path) -> None:
    page = ParsedPage(render_html(run_records(tmp_path, undecided=True), "fashion"))
    assert page.words.count("8,000 samples") == 2, "in the banner and at the engine"
    assert "dd undecided" in page.classes


def told(records: Sequence[Made]) -> list[tuple[str, str]]:
    """The gates that the banner tells besides the summary."""
    gates = group_targets(records)[0].unreported_gates
    return [(gate.comparison.metric, gate.comparison.baseline) for gate in gates]


def test_banner_tells_what_the_summary_leaves_out(tmp_path: Path) -> None:
    """The summary tells of the correlation, at the model where it broke first."""
    records = run_records(tmp_path, broken=True, undecided=True)
    assert told(records) == [("agreement", "teacher"), ("score_drop", "teacher")]
    words = ParsedPage(render_html(records, "fashion")).words
    said = "Failed: engine agreement against the teacher: 0.8236 (0.8065 to 0.8407), promised at least 0.91."
    assert f"{said} Undecided: engine score drop against the teacher: 0.0231 (0.0193 to 0.0269)" in words
    assert "8,000 samples" in words


def test_banner_tells_of_every_conversion_that_failed(tmp_path: Path) -> None:
    ledger = a_ledger()
    for name in ("model", "engine"):
        line(ledger, name)["previous"] |= metrics(correlation=0.5)
    verdict = judge_target(evaluate_gates(ledger_from_json(ledger), GateLimits()))
    assert verdict.first_broken_hop == "model"
    assert told(changed(run_records(tmp_path), "cpu.verdict", **verdict_to_json(verdict))) == [("correlation", "previous")]


def test_summary_tells_the_first_undecided_gate(tmp_path: Path) -> None:
    records = run_records(tmp_path, undecided=True)
    assert told(records) == []
    assert told(with_wide_bounds(records, "engine", "correlation")) == [("correlation", "teacher")]
    assert told(run_records(tmp_path / "passed")) == []


def test_banner_is_no_longer_than_it_must(tmp_path: Path) -> None:
    records = run_records(tmp_path, undecided=True)
    for hop, gate in (("engine", "correlation"), ("engine", "agreement"), ("teacher", "teacher_score")):
        records = with_wide_bounds(records, hop, gate)
    page = ParsedPage(render_html(with_wide_bounds(records, "engine", "speedup"), "fashion"))
    assert len([name for name in page.classes if name == "li undecided"]) == 4 + 1, "and one in the legend"
    assert "And 1 more: see the gates." not in page.words
    records = with_gate(with_wide_bounds(records, "engine", "speedup"), "onnx", "sizes", measured=1)
    assert "And 1 more: see the gates." in ParsedPage(render_html(records, "fashion")).words


def test_every_gate_with_a_limit_is_drawn(passed: tuple[list[Made], str]) -> None:
    """8 are about sound answers and sizes; they have no distance to a limit. Three more explain the picture."""
    target = group_targets(passed[0])[0]
    drawn = [gate for gate in target.traced_gates if gate.comparison.metric not in ("sound", "sizes")]
    assert len(drawn) == len(target.required_gates) - 8
    control = 1
    assert ParsedPage(passed[1]).classes.count("svg forest") == len(drawn) + control + 3


def test_note_stands_beside_the_number(tmp_path: Path) -> None:
    note = "at batch 1: shape [2, 10], expected [1, 10]"
    records = with_gate(run_records(tmp_path), "onnx", "sizes", measured=1, note=note)
    assert f"no, 1 sizes {note} failed" in ParsedPage(render_html(records, "fashion")).words
    assert "no, 1 sizes: at batch 1: shape \\[2, 10\\], expected \\[1, 10\\]" in render_markdown(records, "fashion")


def test_ledger_shows_bounds_where_something_is_uncertain(passed: tuple[list[Made], str]) -> None:
    said = ParsedPage(passed[1]).words
    assert "student PyTorch fp32 0.9143 0.0128 0.0090 to 0.0166 0.9821 0.9803 to 0.9839 0.9445 0.9391 to 0.9499" in said
    assert "teacher PyTorch fp32 0.9271 0.0000 1.0000 1.0000 0" in said
    assert 'title="0.9039 to 0.9247">0.9143' in passed[1]


def test_whiskers_of_the_score_are_those_of_the_drop(tmp_path: Path) -> None:
    from attar.proof.report.figures import ledger

    target = group_targets(run_records(tmp_path))[0]
    engine = target.find_hop("engine")
    assert engine is not None
    assert ledger.bound_drop(engine, 0.9271) == pytest.approx([0.9271 - 0.0188, 0.9271 - 0.0112])
    assert "whiskers: one-sided 95 % bounds of the drop." in ledger.draw_panels(target)[0].caption


def with_floor(records: Sequence[Made], limit: float, *, drop: bool) -> Target:
    """The same target, had a score been promised too, and a drop no more if not ``drop``."""
    engine = next(row for row in hop_rows(records) if row["hop"] == "engine")
    gates = [row for row in gate_rows(records) if drop or row["gate"] != "score_drop"]
    floor = judged("score", "engine", "absolute", limit, engine["score"], engine["score_bounds"])
    return group_targets(changed(records, "cpu.verdict", gates=[*gates, floor]))[0]


def test_tile_of_the_score_has_the_severest_verdict(tmp_path: Path) -> None:
    """The drop is kept and the floor is not."""
    target = with_floor(run_records(tmp_path), 0.95, drop=True)
    assert {tile.name: tile.verdict for tile in list_tiles(target)}["accuracy"] == "failed"


@pytest.mark.parametrize(
    ("limit", "drop", "line", "bounds"),
    [(0.90, False, "0.9000", "bounds."), (0.90, True, "0.9021", "bounds of the drop."), (0.905, True, "0.9050", "bounds.")],
)
def test_the_stricter_promise_of_the_score_is_drawn(tmp_path: Path, limit: float, drop: bool, line: str, bounds: str) -> None:
    from attar.proof.report.figures import ledger

    caption = ledger.draw_panels(with_floor(run_records(tmp_path), limit, drop=drop))[0].caption
    assert caption.endswith(f"95 % {bounds} The engine is promised to stay right of the dashed line, at {line}.")


def timed_on_cuda(records: Sequence[Made], *hops: str) -> list[Made]:
    rows = [{**row, "device": "cuda"} if row["hop"] in hops else row for row in hop_rows(records)]
    return changed(records, "cpu.evidence", hops=rows)


def test_figures_compare_the_speed_of_one_device(tmp_path: Path) -> None:
    from attar.proof.report.figures import speed

    records = timed_on_cuda(run_records(tmp_path), "engine")
    latency, throughput, size = (panel.caption for panel in speed.draw_panels(group_targets(records)[0]))
    assert latency == "Median time of a call on one pinned thread (on cuda: engine); the whisker ends at p99."
    assert throughput == "Samples per second on one pinned thread (on cuda: engine)."
    assert "smaller than the teacher" in size
    assert "one thread (on cuda: engine)" in ParsedPage(render_html(records, "fashion")).words
    beside = timed_on_cuda(records, "reference", "engine")
    latency = speed.draw_panels(group_targets(beside)[0])[0].caption
    assert "(on cuda: reference, engine)" in latency
    assert "faster than the reference." in latency


def test_bundle_in_production_stands_beside_the_chain(tmp_path: Path) -> None:
    records = run_records(tmp_path, production=True)
    page = ParsedPage(render_html(records, "fashion"))
    assert "score drop against the bundle in production at most 0.01 0.0012 −0.0026 to 0.0050 +0.0088 passed" in page.words
    assert "speedup against the bundle in production at least 1 1.21× 1.18× to 1.24× +0.210× passed" in page.words
    assert "Against the bundle" in page.words
    assert "dd passed" in page.classes
    said = render_markdown(records, "fashion")
    shown = "score drop 0.0012 (−0.0026 to 0.0050), CORR 0.9931 (0.9924 to 0.9938), agreement 0.9786 (0.9765 to 0.9807)"
    assert f"**Against the bundle in production**: {shown}, KDL " in said
    assert ", speedup 1.21× (1.18× to 1.24×)." in said
    assert "| production | ONNX Runtime int8 |" in said


def test_failed_against_production_leaves_the_tiles_about_the_teacher_alone(tmp_path: Path) -> None:
    records = run_records(tmp_path, production=True)
    out_of_reach = {"score_drop": -1.0, "speedup": 100.0}
    gates = [{**row, "limit": out_of_reach[row["gate"]]} if row["against"] == "production" else row for row in gate_rows(records)]
    target = group_targets(changed(records, "cpu.verdict", gates=gates))[0]
    assert {tile.name: tile.verdict for tile in list_tiles(target)}["accuracy"] == "passed"
    found = list_production_comparisons(target)
    assert {NAMES[each.metric]: target.find_verdict("engine", each.metric, "production") for each in found} == {
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
    page = ParsedPage(render_html(records, "fashion"))
    assert f"Was the teacher needed? {answer} {said}" in page.words
    assert f"student, with the teacher 20 300 0.9143 0.9039 to 0.9247 {gain} 0.0128" in page.words
    assert ("not needed. The same student" in page.words) == (answer == "not needed"), "in the banner"
    assert "Had the control" in page.words
    assert f"**The control**: {said}" in render_markdown(records, "fashion")


def test_targets_that_promise_differently_have_an_answer_each(tmp_path: Path) -> None:
    records = run_records(tmp_path, targets=("cpu", "gpu", "rtx"))
    said = next(record.facts["distillation"] for record in records if record.slot == "rtx.verdict")
    records = changed(records, "rtx.verdict", distillation={**said, "needed": True, "says": "distillation was needed: it is so"})
    words = ParsedPage(render_html(records, "fashion")).words
    assert "Was the teacher needed? cpu, gpu not needed Distillation was not needed: the same" in words
    assert "rtx needed Distillation was needed: it is so." in words
    for slot in ("cpu.verdict", "gpu.verdict"):
        records = changed(records, slot, distillation=None)
    words = ParsedPage(render_html(records, "fashion")).words
    assert "Was the teacher needed? needed Distillation was needed: it is so." in words
    assert "cannot be told" not in render_markdown(records, "fashion")


def test_without_a_control_nobody_knows(tmp_path: Path) -> None:
    records = changed(run_records(tmp_path), "cpu.verdict", distillation=None)
    assert "Nothing is promised" in ParsedPage(render_html(records, "fashion")).words
    hops = [hop for hop in hop_rows(records) if hop["hop"] != "control"]
    records = changed(records, "cpu.evidence", hops=hops, gain=None, control=None)
    assert "it was not measured" in ParsedPage(render_html(records, "fashion")).words
    assert "it was not measured" in render_markdown(records, "fashion")
    records = changed(records, "control", off=True)
    text = ParsedPage(render_html(records, "fashion")).words
    said = (
        "[control] enabled = true trains one, the same student on the labels alone, in about the 1 min 36 s that the student took"
    )
    assert f"Whether distillation was needed cannot be told without a control: none was trained; {said}" in text
    shown = io.StringIO()
    terminal.print_ledger(records, shown)
    assert (
        f"control: Whether distillation was needed cannot be told without a control: none was trained; {said}" in shown.getvalue()
    )
    assert said in render_markdown(records, "fashion").replace("\\", "")
    unlabelled = render_markdown(changed(records, "cpu.evidence", kinds={"vector": "embedding"}), "fashion").replace("\\", "")
    assert "have no labels" in unlabelled
    assert "enabled = true" not in unlabelled
    assert "student, with the teacher 20 300 0.9143 0.9039 to 0.9247 0.0128" in text


# the picture of a gate


def make_gate(metric: Metric, limit: float, value: float | None, *bounds: float) -> Gate:
    within = ConfidenceBounds(*bounds) if bounds else None
    size = 100 if bounds else None
    return Gate(Comparison(metric, "engine", "teacher", value, within, size), limit, required=True)


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (make_gate("score_drop", 0.025, 0.015, 0.010, 0.020), Mark(36 + 58 * 10 / 15, 36 + 58 * 5 / 15, 94)),
        (make_gate("correlation", 0.95, 0.94, 0.93, 0.945), Mark(36 - 32 / 2, 4, 36 - 32 / 4)),
        (make_gate("agreement", 0.9, 0.9, 0.8, 0.92), Mark(36, 4, 36 + 320 * 0.02)),
        (make_gate("largest_difference", 1e-3, 5e-4), Mark(94, 94, 94)),
        (make_gate("score_drop", 0.0, 0.0, 0.0, 0.0), None),
        (make_gate("sound", 0, 0), None),
        (make_gate("correlation", 0.9, None), None),  # it was not run here
    ],
)
def test_mark_of_a_gate(gate: Gate, expected: Mark | None) -> None:
    mark = place_mark(gate)
    if expected is None or mark is None:
        assert mark == expected
    else:
        assert (mark.at, mark.low, mark.high) == pytest.approx((expected.at, expected.low, expected.high))


NUMBER = st.floats(-10, 10).map(lambda value: round(value, 6))


@given(limit=NUMBER, ends=st.tuples(NUMBER, NUMBER, NUMBER).map(sorted), metric=st.sampled_from(["score_drop", "correlation"]))
def test_mark_shows_the_verdict(limit: float, ends: list[float], metric: Metric) -> None:
    """Its whisker lies right of the limit where the gate passed, left where it failed, over it otherwise; always in the room."""
    low, value, high = ends
    gate = make_gate(metric, limit, value, low, high)
    mark = place_mark(gate)
    if mark is None:
        assert low == high == limit
        return
    assert 4 - 1e-9 <= mark.low <= mark.at <= mark.high <= 94 + 1e-9
    side = "passed" if mark.low >= LIMIT_PERCENT else "failed" if mark.high < LIMIT_PERCENT else "undecided"
    assert gate.verdict == side
