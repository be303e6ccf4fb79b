"""Measure: a whole chain of real ONNX graphs, and what is said when a hop does not answer as it should."""

from __future__ import annotations

import gc
import json
import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from attar.bundle.steps import ship_steps
from attar.engines.runtimes import providers
from attar.engines.runtimes.torch import open_network
from attar.models.preprocess.known import STEPS
from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Device
from attar.proof.comparison import timing
from attar.proof.ledger.ledger import Ledger, TimingConditions
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.verdicts.gate_evaluation import evaluate_speedups
from attar.proof.verdicts.gate_text import format_gate
from attar.proof.verdicts.limits import GateLimits
from attar.stages.artifacts import Engine, OnnxModel
from attar.stages.label.shards import Shard
from attar.stages.measure.bench import Bench, OptimizeFor, TimingRun, choose_timed_batch
from attar.stages.measure.stage import Measure, compute_speedups
from tests.support.proof.proof_parts import NAME, SAMPLES, STUDENT, TEACHER, Chain, Points, line, onnx_model
from tests.support.tasks.smoke import artifact, write_shard

HOPS = ["teacher", "reference", "student", "onnx", "model", "engine"]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Any:
    chain = Chain(tmp_path_factory.mktemp("chain"), control=True, broken={"control": STUDENT[::-1].copy()})
    return chain.evidence(chain.inputs())


def test_the_ledger_has_every_hop_in_order_with_every_column(evidence: Any) -> None:
    facts = evidence.facts
    assert [hop["hop"] for hop in facts["hops"]] == ["teacher", "reference", "student", "control", "onnx", "model", "engine"]
    assert all(
        hop.keys()
        == {"hop", "format", "precision", "status", "why", "parameters", "bytes", "score", "nonfinite", "constant", "teacher"}
        | {"previous", "latency", "memory", "score_bounds", "sizes"}
        for hop in facts["hops"]
    )
    assert [hop["format"] for hop in facts["hops"]] == ["PyTorch", "ONNX", "PyTorch", "PyTorch", "ONNX", "ONNX", "ONNX Runtime"]
    before = {hop["hop"]: hop["previous"] and hop["previous"]["hop"] for hop in facts["hops"]}
    assert before == {"teacher": None, "reference": "teacher", "student": None, "control": None} | {
        "onnx": "student", "model": "onnx", "engine": "model"
    }  # fmt: skip  # a chain reads better on one line
    json.dumps(facts, allow_nan=False)


def test_the_numbers_are_those_of_the_outputs(evidence: Any) -> None:
    saved = load_file(evidence.root / "hops.safetensors")
    teacher, student, target = saved["teacher.output.logits"], saved["student.output.logits"], saved["target.label"]
    found = line(evidence.facts, "student")
    assert found["score"] == (student.argmax(1) == target).mean()
    assert found["score"] == saved["student.statistics"].mean()
    assert found["teacher"]["score_drop"] == pytest.approx(1 - found["score"])
    assert found["teacher"]["agreement"] == (student.argmax(1) == teacher.argmax(1)).mean()
    assert found["teacher"]["largest_difference"] == pytest.approx(np.abs(student - teacher).max())
    assert evidence.facts["oacc"] == line(evidence.facts, "teacher")["score"] == 1
    assert evidence.facts["control"] == line(evidence.facts, "control")["score"] < 0.9
    assert line(evidence.facts, "control")["teacher"]["worst_class"]["drop"] > 0
    assert line(evidence.facts, "engine")["previous"]["largest_difference"] < 1e-6
    assert len(target) == evidence.facts["samples"] == SAMPLES


def test_latency_is_taken_at_both_batch_sizes_in_the_same_rounds(evidence: Any) -> None:
    saved = load_file(evidence.root / "hops.safetensors")
    for hop in HOPS:
        latency = line(evidence.facts, hop)["latency"]
        assert latency.keys() == {"1", "4"}
        assert 0 < latency["1"]["p50"] <= latency["1"]["p99"]
        assert saved[f"{hop}.seconds.4"].shape == (evidence.facts["timing"]["rounds"]["4"],)
    ratio = np.median(saved["reference.seconds.1"] / saved["engine.seconds.1"])  # of the same rounds
    low, high = evidence.facts["speedup"]["bounds"]["reference"]
    assert low <= evidence.facts["speedup"]["reference"] == ratio <= high
    assert evidence.facts["speedup"]["rounds"] == evidence.facts["timing"]["rounds"]["1"]
    assert len(evidence.facts["timing"]["load_average"]) == 2


def test_speed_ups_are_of_the_batch_size_that_is_optimized_for() -> None:
    """By hand: at batch 1 twice as fast, at batch 32 as fast; no other size is timed."""
    seconds = {
        "reference": {1: np.full(21, 2e-3), 32: np.full(21, 8e-3)},
        "engine": {1: np.full(21, 1e-3), 32: np.full(21, 8e-3)},
    }
    run = TimingRun(seconds, TimingConditions(0, 1, {1: 21, 32: 21}, (0.0, 0.0)), {"reference": "cpu", "engine": "cpu"})
    assert [compute_speedups(run, batch)["reference"].value for batch in (1, 32)] == [2.0, 1.0]
    asked: tuple[OptimizeFor, ...] = (1, 32, "throughput")
    assert [choose_timed_batch(each, 32) for each in asked] == [1, 32, 32]
    with pytest.raises(ValueError, match="set batch = 16"):
        Measure(task="attar.models.tasks.digits:Digits", optimize_for=16)


def test_a_control_that_is_off_is_left_out(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    facts = chain.evidence(chain.inputs()).facts
    assert [hop["hop"] for hop in facts["hops"]] == HOPS
    assert facts["control"] is None
    assert "control" not in facts["lineage"]
    assert facts["lineage"].keys() == {*HOPS, "answers"}


def test_answers_that_are_not_finite_are_counted_and_the_facts_stay_json(tmp_path: Path) -> None:
    overflowing = STUDENT.copy()
    overflowing[0, 0] = np.inf
    chain = Chain(tmp_path, {"model": overflowing})
    evidence = chain.evidence(chain.inputs())
    assert line(evidence.facts, "model")["nonfinite"] == SAMPLES
    assert line(evidence.facts, "engine")["nonfinite"] == 0
    json.dumps(evidence.facts, allow_nan=False)


def test_a_constant_hop_is_marked(tmp_path: Path) -> None:
    chain = Chain(tmp_path, {"engine": np.zeros_like(STUDENT)})
    engine = line(chain.evidence(chain.inputs()).facts, "engine")
    assert engine["constant"] is True
    assert engine["teacher"]["correlation"] == 0


def test_a_hop_that_cannot_answer_is_named(tmp_path: Path) -> None:
    chain = Chain(tmp_path, {"model": np.ones((3, 3), np.float32)})
    with pytest.raises(StageError, match=r"model cannot .*\(4, 2\)"):
        chain.evidence(chain.inputs())


def test_a_hop_with_other_outputs_is_named(tmp_path: Path) -> None:
    chain = Chain(tmp_path, {"onnx": np.ones((2, 4), np.float32)})
    with pytest.raises(StageError, match=r"onnx .*\(400, 4\), .*\(400, 3\)"):
        chain.evidence(chain.inputs())


def compare_with_production(root: Path, engine: Any) -> Ledger:
    """Evidence of a chain beside a bundle in production whose graph is the chain's."""
    chain = Chain(root, {"engine": engine})
    inputs = chain.inputs()
    steps = STEPS.dump_python(ship_steps(Points.preprocess, root), mode="json")
    same = replace(
        inputs["production"], root=inputs["model"].root, facts={**inputs["engine"].facts, "name": "old", "preprocess": steps}
    )
    return ledger_from_json(chain.evidence({**inputs, "production": same}).facts)


def test_an_engine_that_answers_otherwise_is_compared_with_production(tmp_path: Path) -> None:
    """Production has the very graph that the engine was built from, and the engine lost what its graph has not."""
    hops = compare_with_production(tmp_path, STUDENT * np.array([1, 0.8, 1], np.float32)).hops
    scores = {name: hop.get_score() or 0 for name, hop in hops.items()}
    assert scores["production"] == scores["model"] != scores["engine"]
    drop = hops["engine"].comparisons["production", "score_drop"]
    assert drop.value == pytest.approx(scores["production"] - scores["engine"])
    assert drop.bounds is not None
    assert drop.bounds.low < scores["production"] - scores["engine"] < drop.bounds.high


def test_an_engine_that_answers_as_its_graph_has_lost_nothing_against_the_same_graph(tmp_path: Path) -> None:
    ledger = compare_with_production(tmp_path, STUDENT * np.float32(1 + 1e-6))
    assert ledger.hops["engine"].get_bounds("production", "score_drop") == (0, 0)


def test_answers_of_other_samples_are_refused(tmp_path: Path) -> None:
    inputs = Chain(tmp_path).inputs()
    answers = inputs["answers"]
    write_shard(answers.root, Shard("test", None, 0), {"logits": answers.read_split("test")["logits"][:-1]})
    with pytest.raises(StageError, match="these 400 test"):
        Measure(task=NAME, batch=4).run(tmp_path, **inputs)


def test_a_batch_that_is_not_promised_is_refused(tmp_path: Path) -> None:
    inputs = Chain(tmp_path).inputs()
    with pytest.raises(StageError, match=r"batch 32 .*1 to 8"):
        Measure(task=NAME).run(tmp_path, **inputs)
    with pytest.raises(StageError, match="test split has 0 samples"):
        Measure(task="tests.support.proof.proof_parts:EmptyPoints", batch=4).run(tmp_path, **inputs)


def test_pinning_holds_one_cpu_and_gives_all_back() -> None:
    before = os.sched_getaffinity(0)
    with timing.pin_to_core() as cpu:
        assert os.sched_getaffinity(0) == {cpu}
    assert os.sched_getaffinity(0) == before
    with pytest.raises(RuntimeError, match="on purpose"), timing.pin_to_core():
        raise RuntimeError("on purpose")
    assert os.sched_getaffinity(0) == before


def test_calls_take_turns_and_every_one_is_timed() -> None:
    heard: list[str] = []
    names = ("a", "b", "c")
    taken = timing.time_interleaved({name: partial(heard.append, name) for name in names}, rounds=30, seconds=60)
    assert {name: len(each) for name, each in taken.items()} == dict.fromkeys(names, 30)
    counted = heard[3 * timing.WARM_UP :]
    assert counted[::2] == counted[1::2]  # each is called once before the call that is timed
    rounds = [tuple(counted[at : at + 6 : 2]) for at in range(0, len(counted), 6)]
    assert all(sorted(each) == sorted(names) for each in rounds)
    assert len(set(rounds)) == 6  # no order is favoured


def test_a_slow_model_is_still_timed_often_enough() -> None:
    wait = threading.Event()
    taken = timing.time_interleaved({"slow": lambda: wait.wait(0.001)}, rounds=1000, seconds=0.001)
    assert len(taken["slow"]) == timing.MIN_ROUNDS
    assert taken["slow"].min() >= 0.001


def test_summary_by_hand() -> None:
    found = timing.summarize_times(np.array([0.001, 0.002, 0.003]), batch=4)
    assert found.p50 == pytest.approx(2000)
    assert found.p99 == pytest.approx(2980)  # linear between the second and the third
    assert found.throughput == pytest.approx(4 / 0.002)


def test_a_call_that_was_interrupted_does_not_slow_a_model_down() -> None:
    found = timing.summarize_times(np.array([0.001] * 9 + [0.5]), batch=8)
    assert found.throughput == pytest.approx(8 / (found.p50 * 1e-6)) == pytest.approx(8000)


def test_memory_counts_what_a_model_holds() -> None:
    held: list[Any] = []
    gc.collect()
    before = timing.read_resident_bytes()
    held.append(np.ones(4_000_000))  # 32 MB
    after = timing.read_resident_bytes()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(32e6, rel=0.1)


def test_a_model_is_as_large_as_its_files(tmp_path: Path) -> None:
    model = onnx_model(tmp_path / "model", TEACHER)
    assert model.size == (tmp_path / "model" / "model.onnx").stat().st_size
    (tmp_path / "model" / "model.onnx.data").write_bytes(bytes(7))  # weights that a graph keeps outside
    (tmp_path / "model" / "notes.onnx").write_bytes(bytes(100))
    assert model.size == (tmp_path / "model" / "model.onnx").stat().st_size + 7


def test_of_a_network_that_generates_the_graph_that_loops_counts(tmp_path: Path) -> None:
    graphs = {"start": 1, "step": 2, "model": 4}
    for graph, size in graphs.items():
        (tmp_path / f"{graph}.onnx").write_bytes(bytes(size))
    facts = {"graphs": list(graphs), "files": {graph: f"{graph}.onnx" for graph in graphs}}
    for kind in (OnnxModel, Engine):
        generating = artifact(kind, tmp_path, {**facts, "task": "attar.models.tasks.numbers:Numbers"})
        assert generating.size == 4
        assert artifact(kind, tmp_path, {**facts, "task": NAME}).size == 7


def test_weights_are_measured_on_the_device_that_is_named(tmp_path: Path) -> None:
    """On a machine without a GPU that is an error, and no answer of the CPU."""
    asked = list_devices(Chain(tmp_path).inputs(), device="cuda")
    assert asked == {"teacher": "cuda", "reference": "auto", "student": "cuda", "onnx": "cpu", "model": "cpu", "engine": "cpu"}
    with pytest.raises(StageError, match="no CUDA device"):
        open_network(torch.nn.Linear(2, 2), NAME, device="cuda").__enter__()


def list_devices(inputs: dict[str, Any], device: Device) -> dict[str, str]:
    task = load_task(NAME)
    bench = Bench(task, task.split("test"), 4, device=device)
    return {hop: bench.choose_device(hop, inputs[hop]) for hop in HOPS}


@pytest.mark.parametrize("has_provider", [True, False])
def test_an_engine_on_a_gpu_is_compared_with_what_runs_there_too(
    has_provider: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU plays the GPU."""
    monkeypatch.setattr(Engine, "find_device", lambda self, device: "cuda")
    monkeypatch.setattr(OnnxModel, "find_device", lambda self, device: "cuda" if has_provider and device != "cpu" else "cpu")
    monkeypatch.setitem(providers.DEVICE_PROVIDERS, "cuda", providers.CPU)
    chain = Chain(tmp_path)
    facts = chain.evidence(chain.inputs()).facts
    assert {hop["hop"]: hop.get("device", "cpu") for hop in facts["hops"]} == dict.fromkeys(HOPS, "cpu") | {"engine": "cuda"} | (
        {"reference": "cuda"} if has_provider else {}
    )
    ledger = ledger_from_json(json.loads(json.dumps(facts)))
    assert ledger.hops["engine"].form == "ONNX Runtime fp32 on cuda"
    (gate,) = evaluate_speedups(ledger, GateLimits(speedup=1e-9))
    assert gate.verdict == ("passed" if has_provider else "not run here")
    assert has_provider or "timed on cuda, the reference on cpu" in format_gate(gate)
