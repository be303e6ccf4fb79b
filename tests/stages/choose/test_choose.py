"""Choose: which candidate goes on, from hand-written trials, and what is said of the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from attar.pipeline.core.errors import StageError
from attar.proof.artifacts import Trials
from attar.proof.ledger.candidates_json import measurement_from_json
from attar.proof.verdicts.limits import GateLimits
from attar.stages.choose.stage import Choose, compute_latency_ratios, select_winner
from tests.support.proof.proof_parts import digest, hop

GATES = GateLimits(correlation=0.9, score_drop=0.05)
ROUNDS = 101


def row(
    name: str, p50: float = 10.0, within: float = 0.0, batch_p50: float | None = None, **changed: float | None
) -> dict[str, Any]:
    """A measured candidate that is perfect, but for what is changed against the teacher."""
    made = hop(name, "onnx", **changed)
    for metric, bounds in made["teacher"]["bounds"].items():
        if bounds is not None:
            made["teacher"]["bounds"][metric] = [made["teacher"][metric] - within, made["teacher"][metric] + within]
    latency = {"1": summary(p50), "4": summary(batch_p50 or 2 * p50)}
    return {**made, "candidate": name, "title": f"form {name}", "latency": latency, "bytes": 100, "threads": 1}


def summary(p50: float) -> dict[str, float]:
    return {"p50": p50, "p99": p50, "throughput": 1e6 / p50}


def absent(name: str, status: str, why: str) -> dict[str, Any]:
    return {"candidate": name, "title": f"form {name}", "asked": {}, "status": status, "why": why}


def trials(root: Path, *rows: Mapping[str, Any], noise: float = 0.0) -> Trials:
    """Each took its median in every round, but for some noise that is not the same for any two."""
    generator = np.random.default_rng(0)
    seconds = {
        f"{each['candidate']}.{batch}": summary["p50"] * 1e-6 * (1 + noise * generator.uniform(-1, 1, ROUNDS))
        for each in rows
        for batch, summary in each.get("latency", {}).items()
    }
    save_file(seconds, root / "seconds.safetensors")
    hops = [hop("teacher", None), hop("onnx", None)]
    facts = {"hops": hops, "candidates": list(rows), "samples": 100, "batch": 4, "split": "validation", "score_name": "accuracy"}
    timing = {"cpu": 0, "threads": 1, "rounds": {"1": ROUNDS}, "load_average": [0, 0]}
    return Trials(
        digest("t"),
        digest("t"),
        root,
        {**facts, "timing": timing},
    )


def choice(root: Path, *rows: Mapping[str, Any], noise: float = 0.0, gates: GateLimits = GATES) -> dict[str, Any]:
    facts = dict(Choose(gates=gates).run(root, trials=trials(root, *rows, noise=noise)))
    json.dumps(facts, allow_nan=False)
    return facts | {each["candidate"]: each for each in facts["candidates"]}


def test_the_fastest_is_sought_at_the_batch_size_that_is_optimized_for(tmp_path: Path) -> None:
    rows = (row("c1", 10, batch_p50=80), row("c2", 20, batch_p50=40))
    winners = [
        Choose(gates=GATES, optimize_for=batch).run(tmp_path, trials=trials(tmp_path, *rows))["winner"]
        for batch in (1, 4, "throughput")
    ]
    assert winners == ["c1", "c2", "c2"]


def test_the_fastest_that_keeps_the_promises_goes_on(tmp_path: Path) -> None:
    found = choice(tmp_path, row("c1", 20), row("c2", 10, correlation=0.95), row("c3", 5, correlation=0.85), row("c4", 13))
    assert (found["winner"], found["passed"]) == ("c2", True)
    assert found["summary"].startswith("form c2 goes on: ")
    assert found["c1"]["reason"] == "slower: 2 times (2 to 2)"
    assert "1.3 times" in found["c4"]["reason"]
    assert found["c3"]["reason"] == "correlation 0.85 (0.85 to 0.85), promised at least 0.9"
    assert [found[name]["verdict"] for name in ("c1", "c2", "c3", "c4")] == ["passed", "passed", "failed", "passed"]
    assert found["c2"] == {
        "candidate": "c2", "title": "form c2", "status": "measured", "verdict": "passed", "score": 0.9, "score_drop": 0.0,
        "correlation": 0.95, "p50": {"1": 10, "4": 20}, "bytes": 100, "threads": 1,
        "slower": {"times": 1.0, "bounds": [1.0, 1.0]}, "reason": "the fastest that keeps the promises",
    }  # fmt: skip  # a row of a table


def test_within_the_noise_the_most_faithful_goes_on(tmp_path: Path) -> None:
    rows = (row("c1", 10, correlation=0.95), row("c2", 10.01, correlation=0.97), row("c3", 12))
    found = choice(tmp_path, *rows, noise=0.1)
    assert found["winner"] == "c2"
    assert "most faithful" in found["c2"]["reason"]
    assert "within the noise" in found["c1"]["reason"]
    assert found["c3"]["reason"].startswith("slower: 1.")
    assert choice(tmp_path, *rows)["winner"] == "c1"  # without noise a thousandth is seen


def test_without_a_correlation_the_one_that_agrees_most_goes_on(tmp_path: Path) -> None:
    rows = [row(f"c{number}", 10, correlation=None, agreement=share) for number, share in enumerate((0.95, 0.97, 0.96))]
    assert choice(tmp_path, *rows, noise=0.1, gates=GateLimits(agreement=0.5))["winner"] == "c1"


def test_of_equally_faithful_ones_the_faster_goes_on(tmp_path: Path) -> None:
    found = choice(tmp_path, row("c1", 10.01), row("c2", 10), row("c3", 12), noise=0.1)
    assert found["c1"]["slower"]["bounds"][0] <= 1
    assert found["winner"] == "c2"
    assert found["c1"]["reason"] == "as fast within the noise, and no more faithful"


def test_what_is_undecided_does_not_pass(tmp_path: Path) -> None:
    found = choice(tmp_path, row("c1", 10, within=0.02, correlation=0.91), row("c2", 30))
    assert (found["winner"], found["c1"]["verdict"]) == ("c2", "undecided")
    assert found["c1"]["reason"].startswith("undecided: correlation 0.91")
    assert found["c2"]["reason"] == "the only one that keeps the promises"


def test_a_score_that_a_sample_decides_costs_no_candidate_its_place(tmp_path: Path) -> None:
    lucky, fast, worse = (
        row(name, p50, within=0.02, score_drop=drop) for name, p50, drop in (("c1", 30, 0.02), ("c2", 10, 0.04), ("c3", 5, 0.04))
    )
    worse["previous"] |= {"score_drop": 0.02, "bounds": {**worse["previous"]["bounds"], "score_drop": [0.01, 0.03]}}
    found = choice(tmp_path, lucky, fast, worse)
    assert (found["winner"], found["passed"], found["c1"]["verdict"]) == ("c2", False, "passed")
    assert found["c2"]["reason"].startswith("the fastest that may keep the promises; undecided: score drop 0.04 (0.02 to 0.06)")
    assert found["c1"]["reason"] == "slower: 3 times (3 to 3)"
    assert found["c3"]["reason"].startswith("undecided: score drop 0.04")


def test_where_samples_are_too_few_the_numbers_inside_the_promises_count(tmp_path: Path) -> None:
    rows = [
        row(name, p50, within=0.02, correlation=corr)
        for name, p50, corr in (("c1", 5, 0.89), ("c2", 10, 0.91), ("c3", 20, 0.915))
    ]
    found = choice(tmp_path, *rows)
    assert (found["winner"], found["passed"], found["c2"]["verdict"]) == ("c2", False, "undecided")
    assert "undecided: correlation 0.91" in found["c2"]["reason"]
    assert found["c3"]["reason"] == "slower: 2 times (2 to 2)"
    assert found["c1"]["reason"].startswith("undecided: correlation 0.89")


def test_where_none_passes_the_most_faithful_goes_on_and_it_is_said(tmp_path: Path) -> None:
    found = choice(tmp_path, row("c1", 10, correlation=0.8), row("c2", 30, correlation=0.85), absent("c3", "refused", "no"))
    assert (found["winner"], found["passed"]) == ("c2", False)
    assert "none keeps" in found["c2"]["reason"]
    assert found["c1"]["slower"] is None


def test_what_the_precision_costs_is_held_against_the_graph_in_fp32(tmp_path: Path) -> None:
    coarse = row("c1", 5)
    coarse["previous"] |= {"correlation": 0.9, "bounds": {**coarse["previous"]["bounds"], "correlation": [0.9, 0.9]}}
    found = choice(tmp_path, coarse, row("c2", 10))
    assert found["winner"] == "c2"
    assert "against fp32 0.9" in found["c1"]["reason"]


def test_a_candidate_without_a_sound_answer_does_not_pass(tmp_path: Path) -> None:
    found = choice(
        tmp_path,
        row("c1", 5) | {"nonfinite": 3},
        row("c2", 10) | {"sizes": {"tried": 1, "faults": ["at batch 1: no"]}},
        row("c3", 20),
    )
    assert found["winner"] == "c3"
    assert "3 (not finite)" in found["c1"]["reason"]
    assert "1 (at batch 1: no)" in found["c2"]["reason"]


def test_a_floor_of_the_score_is_held_against_each(tmp_path: Path) -> None:
    low = row("c1", 5) | {"score": 0.7, "score_bounds": [0.65, 0.75]}
    assert choice(tmp_path, low, row("c2", 10), gates=GateLimits(score=0.8))["winner"] == "c2"


def test_one_that_is_not_run_here_cannot_win_against_one_that_is(tmp_path: Path) -> None:
    found = choice(tmp_path, absent("c1", "not run here", "needs a GPU"), row("c2", correlation=0.1))
    assert found["winner"] == "c2"
    assert found["c1"]["reason"] == "not run here: needs a GPU"
    assert (found["c1"]["verdict"], found["c1"]["p50"], found["c1"]["score"]) == ("not run here", {}, None)


def test_where_none_runs_here_the_first_that_is_not_refused_goes_on(tmp_path: Path) -> None:
    rows = (absent("c1", "refused", "no"), absent("c2", "not run here", "needs a GPU"), absent("c3", "not run here", "also"))
    found = choice(tmp_path, *rows)
    assert (found["winner"], found["passed"]) == ("c2", False)
    assert found["c2"]["reason"].startswith("not run here: needs a GPU; ")


def test_where_all_are_refused_the_reasons_are_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"c1: too old; .*c2: no kernel"):
        choice(tmp_path, absent("c1", "refused", "too old"), absent("c2", "refused", "no kernel"))


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0.5, 1)), min_size=1, max_size=6))
def test_the_one_that_goes_on_is_never_slower_than_another_that_is_as_faithful(of: list[tuple[float, float]]) -> None:
    rows = {f"c{number}": row(f"c{number}", p50, correlation=corr) for number, (p50, corr) in enumerate(of)}
    seconds = {name: np.full(ROUNDS, each["latency"]["1"]["p50"]) for name, each in rows.items()}
    candidates = {name: measurement_from_json(each, 100) for name, each in rows.items()}
    winner = select_winner(candidates, compute_latency_ratios(seconds, candidates, 1), 1)
    for name, each in rows.items():
        faster = each["latency"]["1"]["p50"] < rows[winner]["latency"]["1"]["p50"]
        assert not (faster and each["teacher"]["correlation"] >= rows[winner]["teacher"]["correlation"]), name
