"""The page of a search says what the test split said of the winner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from attar.pipeline.run import Record
from attar.proof.artifacts import Verdict
from attar.proof.estimates.bounds import ConfidenceBounds
from attar.search.report import render_search
from attar.search.result import SearchResult, VariantResult, WinnerTest
from attar.search.winner import judge_winner
from tests.support.proof.report_records import run_records

WINNER = VariantResult("v1", "width 8", {"student.options.width": 8}, "kept", "", p50=10.0, speedup=2.0)
RESULT = SearchResult("demo", "speedup", (WINNER,), "v1", "accuracy", {}, 0.9, 20.0, 9)
BROKE = WinnerTest("failed", ("agreement 0.91 (0.88 to 0.93), promised at least 0.95",))


@pytest.mark.parametrize(
    ("test", "banner", "said"),
    [
        (None, "not-tested", "was not asked yet"),
        (WinnerTest("passed"), "passed", "It keeps them on the test split"),
        (BROKE, "failed", "On the test split: failed; agreement 0.91"),
    ],
)
def test_the_verdict_on_test_heads_the_page(test: WinnerTest | None, banner: str, said: str) -> None:
    page = render_search(replace(RESULT, test=test))
    assert f'class="banner {banner}"' in page
    assert said in page


def test_bounds_of_a_speedup_have_as_many_digits_as_it_has() -> None:
    bounded = replace(WINNER, speedup=15.8461, bounds=ConfidenceBounds(15.3122, 16.2947))
    page = render_search(replace(RESULT, variants=(bounded,)))
    assert "15.8 <small>15.3 to 16.3</small>" in page


def test_where_none_keeps_the_promises_the_closest_is_named_with_what_it_lacks() -> None:
    slow = replace(WINNER, status="too slow", reason="speedup 2, promised at least 5")
    slower = replace(slow, name="v2", title="width 9", reason="speedup 1, promised at least 5")
    broke = replace(WINNER, name="v3", title="width 4", status="broke", reason="breaks one", broken=("agreement 0.8",))
    lost = replace(RESULT, winner=None, variants=(slow, slower))
    assert "The closest: width 8 (speedup 2, promised at least 5); width 9 (speedup 1, " in render_search(lost)
    assert "The closest: width 4 (agreement 0.8)." in render_search(replace(lost, variants=(slow, broke)))


def test_a_run_that_broke_before_its_verdict_says_why() -> None:
    record = Record("cpu.evidence", "Measure", "failed", "broke", error="the test split is empty", makes=Verdict)
    assert judge_winner([record]) == WinnerTest("no verdict", ("the test split is empty",))


def test_a_winner_with_two_engines_has_the_severer_verdict_and_the_promises_of_both(tmp_path: Path) -> None:
    single = run_records(tmp_path / "single")
    batch = run_records(tmp_path / "batch", targets=("cpu-batch",), broken=True)
    assert judge_winner(single).verdict == "passed"
    judged = judge_winner([*single, *(record for record in batch if record.target)])
    assert (judged.verdict, bool(judged.reasons)) == ("failed", True)
