"""MeasureCandidates: real ONNX graphs of linear models, asked and timed on validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from attar.models.task import InMemory, Split, SplitName, load_task
from attar.pipeline.core.errors import StageError
from attar.proof.artifacts import Trials
from attar.proof.comparison import timing
from attar.stages.artifacts import Engine
from attar.stages.choose.trial import MeasureCandidates, make_titles
from attar.stages.label.shards import Shard
from tests.support.proof.proof_parts import STUDENT, TEACHER, Matrix, Points, answers, digest, engine, onnx_model
from tests.support.tasks.smoke import floats, write_shard

NAME = "tests.stages.choose.test_trial:ValidationPoints"


class ValidationPoints(Points):
    """What is not validation cannot be read: nothing here may look at the test split."""

    def split(self, name: SplitName) -> Split:
        if name != "validation":
            raise AssertionError(f"{name} was read")
        whole = super().split(name)
        batch = whole.take(np.arange(200))
        return InMemory(batch.inputs, batch.targets)


@dataclass
class NamedCandidates:
    """Candidates by name: a matrix, or facts of one that is not measured; ``threads`` of those that are."""

    root: Path
    of: Mapping[str, Matrix | Mapping[str, str]]
    threads: int = 1

    def trials(self, stored: int = 200) -> Trials:
        asked = tuple({"precision": "fp32", "exclude": [name]} for name in self.of)
        onnx = onnx_model(self.root / "onnx", STUDENT)
        known = answers(self.root / "answers", TEACHER, load_task("tests.support.proof.proof_parts:Points"))
        inputs = floats(ValidationPoints().split("validation").take(np.arange(stored)).inputs["x"]) / 2
        write_shard(known.root, Shard("validation", None, 0), {"logits": (inputs @ TEACHER).astype(np.float32)})
        (self.root / "out").mkdir()
        stage = MeasureCandidates(task=NAME, candidates=asked, batch=4, repeats=20, seconds=0.01)
        engines = {name: self.engine(name) for name in self.of}
        onnx = replace(onnx, facts={**onnx.facts, "task": NAME})
        facts = stage.run(self.root / "out", answers=known, onnx=onnx, **engines)
        return Trials(digest("trials"), digest("trials"), self.root / "out", facts)

    def engine(self, name: str) -> Engine:
        what = self.of[name]
        if isinstance(what, Mapping):
            return Engine(digest(name), digest(name), self.root / name, what)
        made = engine(self.root / name, what)
        return replace(made, facts={**made.facts, "task": NAME, "threads": self.threads})


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    refused, absent = {"refused": "nothing can be quantized"}, {"why": "needs a GPU"}
    return NamedCandidates(
        tmp_path_factory.mktemp("trials"), {"c1": TEACHER, "c2": refused, "c3": STUDENT, "c4": absent}
    ).trials()


def rows(trials: Trials) -> dict[str, dict[str, Any]]:
    return {row["candidate"]: row for row in trials.facts["candidates"]}


def test_every_candidate_has_a_row_and_what_was_not_measured_says_why(trials: Trials) -> None:
    found = rows(trials)
    assert list(found) == ["c1", "c2", "c3", "c4"]
    assert {name: (row["status"], row["why"]) for name, row in found.items()} == {
        "c1": ("measured", None),
        "c2": ("refused", "nothing can be quantized"),
        "c3": ("measured", None),
        "c4": ("not run here", "needs a GPU"),
    }
    assert found["c2"]["asked"] == {"precision": "fp32", "exclude": ["c2"]}
    assert "latency" not in found["c2"]
    json.dumps(trials.facts, allow_nan=False)


def test_the_numbers_are_of_validation_against_the_teacher_and_the_fp32_graph(trials: Trials) -> None:
    found = rows(trials)
    x = floats(ValidationPoints().split("validation").take(np.arange(200)).inputs["x"])
    agreement = ((x @ STUDENT).argmax(1) == (x @ TEACHER).argmax(1)).mean()
    assert trials.facts["split"] == "validation"
    assert trials.facts["samples"] == 200
    assert found["c1"]["teacher"]["correlation"] == pytest.approx(1)
    assert found["c1"]["score"] == 1
    assert found["c3"]["score"] == found["c3"]["teacher"]["agreement"] == agreement < 1
    assert found["c3"]["previous"]["hop"] == "onnx"
    assert found["c3"]["previous"]["largest_difference"] < 1e-5
    assert found["c1"]["previous"]["correlation"] < 0.99
    assert [hop["hop"] for hop in trials.facts["hops"]] == ["teacher", "onnx"]


def test_those_that_run_are_timed_in_the_same_rounds_on_one_core(trials: Trials) -> None:
    seconds = load_file(trials.root / "seconds.safetensors")
    assert seconds.keys() == {"c1.1", "c1.4", "c3.1", "c3.4"}
    how = trials.facts["timing"]
    assert len(seconds["c1.1"]) == len(seconds["c3.1"]) == how["rounds"]["1"] == timing.MIN_ROUNDS
    assert how["threads"] == 1
    assert how["cpu"] is not None
    assert len(how["load_average"]) == 2
    for row in (rows(trials)["c1"], rows(trials)["c3"]):
        assert row["latency"]["1"]["p50"] > 0
        assert row["sizes"]["faults"] == []
        assert row["bytes"] > 0


def test_none_is_pinned_where_one_needs_several_threads(tmp_path: Path) -> None:
    trials = NamedCandidates(tmp_path, {"c1": TEACHER}, threads=2).trials()
    assert (trials.facts["timing"]["cpu"], trials.facts["timing"]["threads"]) == (None, None)
    assert rows(trials)["c1"]["threads"] == 2


def test_where_none_runs_nothing_is_measured(tmp_path: Path) -> None:
    trials = NamedCandidates(tmp_path, {"c1": {"why": "needs a GPU"}, "c2": {"refused": "no"}}).trials()
    assert trials.facts["timing"] is None
    assert [row["status"] for row in trials.facts["candidates"]] == ["not run here", "refused"]
    assert not list(trials.root.iterdir())


def test_a_candidate_that_cannot_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="c2 cannot"):
        NamedCandidates(tmp_path, {"c1": TEACHER, "c2": np.ones((3, 3), np.float32)}).trials()


def test_answers_of_another_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="200 validation"):
        NamedCandidates(tmp_path, {"c1": TEACHER}).trials(stored=150)


def test_a_title_tells_a_candidate_from_the_others() -> None:
    listed = [{"precision": "int8", "threads": 1}, {"precision": "int8", "threads": 1, "per_channel": False}]
    assert make_titles(listed) == ["onnxruntime int8", "onnxruntime int8, per_channel false"]
    listed = [{"runtime": "openvino", "threads": 1}, {"provider": "CUDAExecutionProvider", "threads": 2}]
    assert make_titles(listed) == ["openvino fp32, threads 1", "onnxruntime fp32, threads 2, provider CUDAExecutionProvider"]
    assert make_titles([]) == []


def test_settling_calls_until_the_time_is_over() -> None:
    calls: list[int] = []
    timing.time_call(lambda: calls.append(1))
    assert len(calls) == 2
    timing.time_call(lambda: calls.append(1), settling=0.001)
    assert len(calls) > 10
