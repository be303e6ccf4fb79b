"""The candidates in every form of the report: what each gave, the front, and why the others stayed behind."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.pipeline.run import Record
from attar.proof.ledger.candidates import CandidateChoice
from attar.proof.report.candidates import describe_trials
from attar.proof.report.data import build_data
from attar.proof.report.figures import front
from attar.proof.report.figures.front import Point
from attar.proof.report.formats.html import render_html
from attar.proof.report.formats.junit import render_junit
from attar.proof.report.formats.markdown import render_markdown
from attar.proof.report.target import group_targets
from tests.support.proof.report_facts import choice
from tests.support.proof.report_records import Made, ParsedPage, broke, changed, printed, run_records, with_candidates


@pytest.fixture
def records(tmp_path: Path) -> list[Made]:
    return with_candidates(run_records(tmp_path), tmp_path)


def chosen(records: list[Made]) -> CandidateChoice:
    found = group_targets(records)[0].choice
    assert found is not None
    return found


def test_slots_of_candidates_belong_to_their_target(records: list[Made]) -> None:
    found = group_targets(records)
    assert [target.name for target in found] == ["cpu"]
    assert {"cpu.c1.model", "cpu.c5.engine", "cpu.trials", "cpu.choice", "cpu.model"} <= {
        record.slot for record in found[0].records
    }
    assert all("." not in record.slot for record in found[0].shared)


def test_how_they_were_compared_is_said(records: list[Made]) -> None:
    assert describe_trials(chosen(records)) == (
        "All answered the same 5\u202f000 samples of the validation split and were timed in the same 200 rounds, on one pinned "
        "thread, at a load average of 0.4 to 1.0."
    )
    none = changed(records, "cpu.choice", timing=None)
    assert describe_trials(chosen(none)) == "None of them was run here."
    free = {"cpu": None, "threads": None, "rounds": {"1": 20}, "load_average": [0, 0]}
    assert "each on its own threads, none of them pinned" in describe_trials(chosen(changed(records, "cpu.choice", timing=free)))


def test_the_page_has_the_table_and_two_figures(records: list[Made]) -> None:
    page = ParsedPage(render_html(records, "fashion"))
    assert "The candidates" in page.words
    assert "CORR and latency" in page.words
    assert "Accuracy and latency" in page.words
    assert "tr winner" in page.classes
    assert "no <MatMul> is left" in page.words
    assert "not run here: needs a GPU" in page.words
    assert "c3, c2, c1. c2 goes on" in page.words
    assert "The candidates" not in ParsedPage(render_html(run_records_of(records), "fashion")).words


def run_records_of(records: list[Made]) -> list[Made]:
    return [record for record in records if not record.slot.startswith(("cpu.c", "cpu.trials"))]


def test_a_target_that_broke_after_the_choice_still_shows_it(records: list[Made]) -> None:
    page = ParsedPage(render_html(broke(records, "cpu.evidence", "no"), "fashion"))
    assert "The candidates" in page.words
    assert "The ledger" not in page.words


def test_the_pull_request_has_a_row_for_each(records: list[Made]) -> None:
    text = render_markdown(records, "fashion")
    assert (
        "| c2: onnxruntime int8 | ✅ passed | 0.9121 | 0.0150 | 0.9789 | 71.3 µs | 1.21 ms | 66.0 kB | goes on: the fastest"
        in text
    )
    assert (
        "| c4: onnxruntime int8-dynamic | 🚫 refused | – | – | – | – | – | – | refused: nothing can be quantized: no \\<MatMul\\>"
        in text
    )


def test_the_terminal_fits_80_columns_and_says_why(records: list[Made]) -> None:
    shown = printed(records)
    assert max(map(len, shown.splitlines())) <= 80
    int8 = (
        "  c2 onnxruntime int8: CORR 0.9789, p50 71.3 µs, 1.21 ms at batch 32, 66.0 kB\n"
        "    goes on: the fastest that keeps the promises\n"
    )
    assert int8 in shown
    assert "  c5 tensorrt-rtx fp16: not run here\n    not run here: needs a GPU\n" in shown


def test_programs_get_the_rows_and_the_winner(records: list[Made]) -> None:
    made = build_data(records)["targets"]["cpu"]
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["winner"] == "c2"
    assert [row["candidate"] for row in made["candidates"]] == ["c1", "c2", "c3", "c4", "c5"]
    assert made["bundle"] is not None


def test_ci_counts_the_slots_of_candidates_and_each_belongs_to_its_target(records: list[Made]) -> None:
    assert 'name="cpu.c1.model"' in render_junit(records, "fashion")
    assert {Record(r.slot, r.stage, "made", "").target for r in records if r.slot.startswith("cpu.")} == {"cpu"}


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 1)), min_size=1, max_size=8))
def test_no_other_beats_a_point_of_the_front_and_every_other_is_beaten(of: list[tuple[float, float]]) -> None:
    found = [Point(f"c{n}", latency, value, "", kept=True) for n, (latency, value) in enumerate(of)]
    best = front.find_front(found)
    for point in found:
        beaten = any(b.latency <= point.latency and b.value >= point.value for b in best if b is not point)
        assert beaten or point in best
    assert all(a.latency < b.latency and a.value < b.value for a, b in pairwise(best))


def test_one_candidate_alone_is_no_front(records: list[Made]) -> None:
    rows = choice()["candidates"][:1]
    assert front.draw_panels(group_targets(changed(records, "cpu.choice", candidates=rows))[0]) == []


def test_what_hardly_differs_is_drawn_level() -> None:
    assert front.widen_height([0.9690, 0.9690]) == pytest.approx((0.967, 0.971))
    assert front.widen_height([0.5, 0.9]) == pytest.approx((0.428, 0.972))


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), min_size=1, max_size=8))
def test_names_that_would_be_written_over_each_other_are_written_together(of: list[tuple[float, float]]) -> None:
    found = [Point(f"c{n}", x, y, "", kept=True) for n, (x, y) in enumerate(of)]
    groups = front.group_near_points(found, lambda point: (point.latency, point.value))
    assert sorted(point.name for group in groups for point in group) == sorted(point.name for point in found)
    for one, other in combinations([group[0] for group in groups], 2):
        first = len(front.join_names([one]) + front.join_names([other])) * front.LETTER / 2
        if all(len(group) == 1 for group in groups):
            assert abs(one.latency - other.latency) >= first or abs(one.value - other.value) >= front.LINE


def test_only_what_is_near_shares_a_name() -> None:
    found = [Point("c1", 10, 50, "", kept=True), Point("c2", 14, 52, "", kept=True), Point("c3", 80, 50, "", kept=True)]
    groups = front.group_near_points(found, lambda point: (point.latency, point.value))
    assert [front.join_names(group) for group in groups] == ["c1, c2", "c3"]


def test_a_name_under_which_two_dots_lie_is_drawn_once(records: list[Made]) -> None:
    rows = [row for row in choice()["candidates"] if row["status"] == "measured"]
    rows[1] |= {"correlation": rows[0]["correlation"], "p50": {**rows[0]["p50"], "1": rows[0]["p50"]["1"] * 1.01}}
    drawn = front.draw_panels(group_targets(changed(records, "cpu.choice", candidates=rows))[0])[0].svg
    assert ">c1, c2<" in drawn
    assert ">c1<" not in drawn
