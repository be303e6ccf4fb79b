"""Which engines are timed in the same rounds, and what is told of all rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from attar.pipeline.core.stage import Device
from attar.proof.ledger.ledger import TimingConditions
from attar.stages.artifacts import Engine, OnnxModel
from attar.stages.artifacts.model import Opened
from attar.stages.choose.speeds import (
    MOST_BYTES,
    MOST_ENGINES,
    REFERENCE,
    TimeEngines,
    describe_speed,
    group_engines,
    order_groups,
    summarize_reference,
)
from attar.stages.measure.bench import TimingRun
from tests.support.proof.proof_parts import NAME, STUDENT, TEACHER, engine, onnx_model


class SizedEngine(Engine):
    """An engine of so many bytes."""

    @property
    def size(self) -> int:
        return int(self.facts["bytes"])


def make_engines(*sizes: int) -> dict[str, Engine]:
    return {f"e{place}": SizedEngine("", "", Path(), {"bytes": size}) for place, size in enumerate(sizes)}


def make_run(**milliseconds: float) -> TimingRun:
    """Return ten rounds of calls that take the same at batch 1."""
    seconds = {name: {1: np.full(10, 1e-3 * each)} for name, each in milliseconds.items()}
    return TimingRun(seconds, TimingConditions(None, 1, {1: 10}, ()), dict.fromkeys(milliseconds, "cpu"))


def test_engines_are_timed_together_as_many_as_can_be_open() -> None:
    assert [len(group) for group in group_engines(make_engines(*[1000] * (MOST_ENGINES + 2)))] == [MOST_ENGINES, 2]
    half = MOST_BYTES // 2
    groups = group_engines(make_engines(half, half, 1, 2 * MOST_BYTES, 1))
    assert [list(group) for group in groups] == [["e0", "e1"], ["e2"], ["e3"], ["e4"]]
    assert group_engines({}) == []


def test_groups_are_timed_twice_in_opposite_orders_and_one_group_once() -> None:
    one, two = {"a": None}, {"b": None}
    assert order_groups([one, two]) == [one, two, two, one]  # type: ignore[list-item]  # names are enough
    assert order_groups([one]) == [one]  # type: ignore[list-item]  # as above


def test_a_speedup_is_of_all_rounds_that_an_engine_shares_with_the_reference() -> None:
    runs = [make_run(reference=10.0, a=2.0), make_run(reference=20.0, b=4.0), make_run(reference=12.0, a=4.0)]
    speed = describe_speed(runs, "a", 77, 1)
    assert (speed.speedup, speed.size_bytes) == (4.0, 77)  # ten ratios of 5 and ten of 3
    assert speed.p50 == {1: 3000.0}
    assert speed.bounds == (3.0, 5.0)


def test_the_reference_has_the_median_of_its_runs_and_their_spread() -> None:
    medians, spread = summarize_reference([make_run(**{REFERENCE: each}) for each in (1.0, 1.5, 1.1)])
    assert medians == {1: 1100.0}
    assert spread == {1: 1.5}
    assert summarize_reference([]) == ({}, {})


def test_the_reference_on_two_devices_is_not_spread() -> None:
    on_gpu = replace(make_run(**{REFERENCE: 0.1}), devices={REFERENCE: "cuda"})
    assert summarize_reference([make_run(**{REFERENCE: 1.0}), on_gpu, on_gpu, make_run(**{REFERENCE: 1.0})]) == (
        {1: 1000.0},
        {1: 1.0},
    )


class WatchedEngine(Engine):
    """An engine that notes on how many threads it was opened."""

    opened: ClassVar[list[int | None]] = []

    def open(self, threads: int | None = None, device: Device = "cpu") -> Opened:
        self.opened.append(threads)
        return super().open(threads, device)


def test_speedups_are_on_one_thread_whatever_an_engine_was_built_for(tmp_path: Path) -> None:
    """So are those that the gates judge."""
    made = engine(tmp_path / "a", STUDENT)
    watched = WatchedEngine(made.key, made.digest, made.root, {**made.facts, "threads": 2})
    stage = TimeEngines(task=NAME, batch=2, repeats=20, seconds=0.01)
    stage.run(tmp_path / "out", reference=onnx_model(tmp_path / "reference", TEACHER), a=watched)
    assert watched.opened == [1]


class WatchedReference(OnnxModel):
    """A graph that notes where it was opened, and between which engines."""

    opened: ClassVar[list[Device]] = []

    def open(self, threads: int | None = None, device: Device = "cpu") -> Opened:
        self.opened.append(device)
        return super().open(threads, "cpu")


class EngineOnGpu(Engine):
    def find_device(self, device: Device) -> str:
        return "cuda"


@pytest.mark.parametrize(("device", "places"), [("auto", ["cpu", "auto", "auto", "cpu"]), ("cpu", ["cpu"] * 4)])
def test_the_reference_is_timed_where_the_engines_beside_it_run(tmp_path: Path, device: Device, places: list[Device]) -> None:
    """As it is for the verdict: a ratio of two devices says nothing of an engine."""
    one, other = engine(tmp_path / "a", STUDENT), engine(tmp_path / "b", STUDENT)
    on_gpu = EngineOnGpu(other.key, other.digest, other.root, other.facts)
    graph = onnx_model(tmp_path / "reference", TEACHER)
    watched = WatchedReference(graph.key, graph.digest, graph.root, graph.facts)
    watched.opened.clear()
    stage = TimeEngines(task=NAME, batch=2, repeats=20, seconds=0.01, device=device)
    facts = stage.run(tmp_path / "out", reference=watched, a=one, b=on_gpu)
    assert watched.opened == places
    assert facts["engines"].keys() == {"a", "b"}
