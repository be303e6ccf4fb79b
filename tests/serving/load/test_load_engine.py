"""Bench: times a bundle that is fit, and no other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from attar.pipeline.core.errors import AttarError, InvalidBundleError
from attar.proof.comparison.timing import MIN_ROUNDS
from attar.serving.load.engine import bench_engine, draw_figure, format_table


@pytest.fixture(scope="module")
def bundle(points_bundle: Path) -> Path:
    return points_bundle


def test_the_engine_is_timed_beside_the_fp32_student(bundle: Path) -> None:
    facts = bench_engine(bundle, batches=(1, 8), seconds=0.01)
    assert facts["batches"].keys() == {"1", "8"}
    for found in facts["batches"].values():
        assert found["rounds"] >= MIN_ROUNDS
        assert 0 < found["engine"]["p50"] <= found["engine"]["p99"]
        assert found["speedup"] == found["student_fp32"]["p50"] / found["engine"]["p50"]
    json.dumps(facts, allow_nan=False)
    lines = format_table(facts).splitlines()
    assert lines[0].split() == ["batch", "model", "p50", "µs", "p99", "µs", "samples/s"]
    shown = [re.split(r"\s{2,}", line.strip())[:2] for line in lines[1:5]]
    assert shown == [["1", "engine"], ["1", "student fp32"], ["8", "engine"], ["8", "student fp32"]]
    assert len({len(line) for line in lines[:5]}) == 1  # the columns stand under their names
    assert lines[5].startswith("speedup over the fp32 student: ")
    assert lines[6].startswith("open loop, ")
    assert draw_figure(facts).count("<circle") == 5  # two models in two batches, and the open loop


def test_the_engine_alone_in_an_open_loop(bundle: Path) -> None:
    found = bench_engine(bundle, batches=(1, 8), seconds=0.1, rates=(500, 1000))["open"]
    assert [each["asked_rate"] for each in found] == [500, 1000]
    assert all(0 < each["p50"] <= each["p99"] for each in found)


def test_a_batch_that_is_not_promised_is_refused(bundle: Path) -> None:
    with pytest.raises(AttarError, match="promises batches of 1 to 8, not 32"):
        bench_engine(bundle)


def test_a_bundle_that_was_changed_is_not_timed(bundle: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(bundle, tmp_path / "changed")
    (changed / "README.md").write_text("faster")
    with pytest.raises(InvalidBundleError, match=r"README\.md was changed"):
        bench_engine(changed)
