"""Two engines in one bundle: which rows are whose, both gates hold, and equal ones are one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attar.bundle.verified import read_manifest
from attar.pipeline.core.errors import GateError, StageError
from attar.proof.verdicts.limits import GateLimits
from attar.stages.package.pair import find_least_rows
from attar.stages.package.stage import Package
from tests.support.bundles.engine_pairs import make_choice, prove_batch, prove_single
from tests.support.proof.proof_parts import NAME

SINGLE = {1: 10, 32: 320}
"""Microseconds of the engine for single samples, by rows."""


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        ({1: 20, 32: 165}, 3),  # saves -10 at 1 and 155 at 32, a straight line: 0 at 1 + 31 * 10 / 165
        ({1: 165, 32: 165}, 17),  # -155 and 155: 0 half way, at 16.5
        ({1: 10, 32: 319}, 2),  # never slower
        ({1: 20, 32: 320}, 32),  # never faster, where it was taken as the more faithful of equals
        ({1: 1000, 32: 319}, 32),
    ],
)
def test_the_rows_from_which_on_the_second_engine_saves_time(batch: Mapping[int, float], rows: int) -> None:
    assert find_least_rows(make_choice("c1", SINGLE, batch), make_choice("c2", SINGLE, batch)) == rows


def test_both_are_in_the_bundle_each_with_its_ledger_gates_and_lineage(pair_bundle: Path) -> None:
    manifest = read_manifest(pair_bundle)
    assert manifest.format == "attar bundle 2"
    assert manifest.batch is not None
    assert (manifest.engine.runtime, manifest.batch.engine.runtime) == ("onnxruntime", "openvino")
    assert manifest.batch.verdict.is_gated
    assert manifest.batch.lineage["engine"].digest != manifest.lineage["engine"].digest
    assert manifest.batch.lineage["student"] == manifest.lineage["student"]
    assert (pair_bundle / "batch" / "engines" / "openvino" / "model.blob").is_file()
    assert (pair_bundle / "batch" / "graphs" / "model.onnx").is_file()
    card = (pair_bundle / "README.md").read_text()
    assert "samples or more go to another engine: fp32, openvino" in card
    assert "p50, batch 4 (µs)" in card


def test_of_two_equal_picks_one_is_kept(tmp_path: Path) -> None:
    single = prove_single(tmp_path / "single")
    again = {f"batch_{name}": made for name, made in single.items() if name != "onnx"}
    again |= {f"{who}_choice": make_choice("c1") for who in ("single", "batch")}
    (tmp_path / "out").mkdir()
    Package(task=NAME, name="points").run(tmp_path / "out", **single, **again)
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.format, manifest.batch) == ("attar bundle 1", None)
    assert not (tmp_path / "out" / "batch").exists()


def test_one_engine_that_breaks_a_promise_keeps_both_from_being_packaged(tmp_path: Path) -> None:
    strict = GateLimits(score_drop=0.2, correlation=0.9999999)
    (tmp_path / "out").mkdir()
    both = {**prove_single(tmp_path / "single"), **prove_batch(tmp_path / "batch", gates=strict)}
    with pytest.raises(GateError, match="not packaged: "):
        Package(task=NAME, name="points").run(tmp_path / "out", **both)
    assert not list((tmp_path / "out").iterdir())


def test_evidence_of_another_batch_engine_is_refused(tmp_path: Path) -> None:
    both = {**prove_single(tmp_path / "single"), **prove_batch(tmp_path / "batch")}
    both["batch_engine"] = replace(both["batch_engine"], digest="0" * 64)
    (tmp_path / "out").mkdir()
    with pytest.raises(StageError, match="evidence is of another engine"):
        Package(task=NAME, name="points").run(tmp_path / "out", **both)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "other:Task"}, r"have one task, .* on tests\.support.* on other:Task"),
        ({"lineage": {"teacher": {"key": "a" * 64, "digest": "b" * 64}}}, r"come from one teacher, .* and a{12}\)"),
        ({"lineage": {"student": {"key": "a" * 64, "digest": "b" * 64}}}, "come from one student"),
    ],
)
def test_engines_of_two_tasks_teachers_or_students_are_no_pair(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    both = {**prove_single(tmp_path / "single"), **prove_batch(tmp_path / "batch")}
    facts = both["batch_evidence"].facts
    changed = {**changed, "lineage": {**facts["lineage"], **changed.get("lineage", {})}}
    both["batch_evidence"] = replace(both["batch_evidence"], facts={**facts, **changed})
    (tmp_path / "out").mkdir()
    with pytest.raises(StageError, match=message):
        Package(task=NAME, name="points").run(tmp_path / "out", **both)
    assert not list((tmp_path / "out").iterdir())
