"""What the comparison of servers concludes from what it measured."""

from __future__ import annotations

import numpy as np

from attar.serving.load.load import Outcome
from benchmarks.serving_pair import PAIR, format_case, list_overrides
from benchmarks.serving_report import (
    CONNECTIONS,
    MANY,
    OURS,
    BundleMeasurements,
    draw_figure,
    judge_goal,
    judge_goals,
    render_table,
)


def outcome(rate: float, latency: float) -> Outcome:
    return Outcome(np.full(int(rate), latency), 1.0, {}, busy=0.5, cpu=0.5)


def made(rounds: int = 7) -> BundleMeasurements:
    """attar: 9000 a second, LitServe 1000; MLServer is not there."""
    found = BundleMeasurements("points", missing={"MLServer": "no wheel"})
    for _ in range(rounds):
        for c in CONNECTIONS:
            found.add_outcome((OURS, "json", 1, c), outcome(9000, 0.001))
            found.add_outcome((OURS, "binary", 1, c), outcome(18000, 0.001))
            found.add_outcome(("LitServe", "json", 1, c), outcome(1000, 0.01))
        found.add_outcome((OURS, "binary", MANY, 16), outcome(600, 0.01))
        found.engine.append(32_000.0)
        found.peak.append({"p50": 100.0, "p99": 600.0})
    return found


def test_goals_are_kept_missed_or_undecided() -> None:
    said = "\n".join(judge_goals(made()))
    assert "times LitServe's: 9.00 (9.00 to 9.00); at least 8: kept; at least 11: missed; at least 18: missed" in said
    assert "MLServer: not run" in said
    assert "p99 at 16 connections, times LitServe's: 0.10 (0.10 to 0.10); at most 1: kept" in said
    assert "times our JSON: 2.00 (2.00 to 2.00); at least 1.4: kept" in said
    assert "share of the bare engine: 0.60 (0.60 to 0.60); at least 0.55: kept; at least 0.75: missed" in said
    assert "p99 over p50: 6.00 (6.00 to 6.00); at most 5: missed" in said
    assert "80 % of peak" in said


def test_bounds_decide() -> None:
    assert judge_goal("x", np.arange(1.0, 8.0), (4,)).endswith("4.00 (1.00 to 7.00); at least 4: undecided")
    assert judge_goal("x", np.array([9.0]), (4,)).endswith("undecided: too few rounds")


def test_a_soak_is_flat_or_not() -> None:
    found = made()
    found.soaked = [{"errors": 0, "resident": 100e6}, *({"errors": 0, "resident": 101e6} for _ in range(9))]
    assert any("flat within 2%, no error: kept" in said for said in judge_goals(found))
    del found.soaked[5:]
    assert any("no error: undecided: too short" in said for said in judge_goals(found))
    found.soaked.append({"errors": 0, "resident": 103e6})
    assert any("no error: missed" in said for said in judge_goals(found))


def test_every_case_is_in_the_table_and_the_figure() -> None:
    found = made()
    assert f"| {OURS} | json | 1 | 16 | 9,000 | 1,000 | 1,000 | 0 |" in render_table(found)
    assert "| MLServer |" in render_table(found)
    assert draw_figure(found).count("<circle") == len(found.rounds)


def test_a_pair_is_set_beside_the_better_of_its_engines() -> None:
    rates = {"ONNX Runtime": [100.0] * 9, "OpenVINO": [150.0] * 9, PAIR: [165.0] * 9}
    assert format_case((32, 4), rates) == "| 32 | 4 | 100 | 150 | 165 | 1.100 (1.100 to 1.100) of OpenVINO |"


def test_a_bundle_of_one_engine_is_fast_at_one_size_and_the_pair_at_both() -> None:
    single, pair = (list_overrides(name)[-1] for name in ("OpenVINO", PAIR))
    assert single == 'targets.cpu={candidates=[{precision="int8", runtime="openvino"}], threads=1, optimize_for=1}'
    assert pair.endswith("threads=1, optimize_for=[1, 32]}")
    assert pair.count("runtime=") == 2
