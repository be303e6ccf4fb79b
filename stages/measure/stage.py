"""Measure: what every hop answers on the test split, and how fast, in one ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator
from safetensors.numpy import save_file

from attar.models.task import Array, Arrays, load_task
from attar.pipeline.core.stage import Artifact, CodeName, Device, Facts, Stage
from attar.pipeline.keys.machine import describe_machine
from attar.proof.artifacts import Evidence
from attar.proof.checks.leak import find_near_duplicates
from attar.proof.comparison import timing
from attar.proof.comparison.hop_outputs import HopOutputs, pack_followed
from attar.proof.estimates import statistics
from attar.proof.gate import Baseline, Comparison
from attar.proof.hop import HOPS
from attar.proof.ledger.ledger import Hop, Ledger
from attar.proof.ledger.ledger_json import ledger_to_json
from attar.stages.artifacts import (
    Answers,
    Engine,
    Model,
    OnnxModel,
    Production,
    TextProgram,
    Weights,
)
from attar.stages.measure import stored
from attar.stages.measure.bench import (
    SPEED_BASELINES,
    Bench,
    OptimizeFor,
    TimingRun,
    choose_timed_batch,
)
from attar.stages.measure.hops import check_shapes, describe_model, repeats_answers
from attar.stages.measure.teacher_path import TeacherPath


class Measure(Stage[Evidence]):
    """Measure every hop on the test split.

    Facts: the JSON of a ``Ledger`` (see ``proof.ledger``) and ``lineage``,
    the key and the digest of everything that was measured.

    ``hops.safetensors``: ``HOP.output.NAME`` [samples, ...], ``HOP.statistics`` [samples, k],
    ``HOP.seconds.BATCH`` [rounds] (entry i of all hops is from the same round), ``target.NAME``.

    An engine that this machine cannot run is a hop of ``status`` "not run here" with ``why``, and
    without numbers.
    """

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    batch: int = Field(32, ge=1)
    """Samples a call when the test split is answered, and the second batch size that is timed,
    besides 1."""
    repeats: int = Field(200, ge=timing.MIN_ROUNDS)
    """Timed calls of each hop at each batch size."""
    seconds: float = Field(8, gt=0)
    """At most about so long for one batch size."""
    optimize_for: OptimizeFor = 1
    """The batch size that ``speedup`` is about, 1 or ``batch``; ``"throughput"`` is ``batch``."""
    device: Device = "auto"

    @model_validator(mode="after")
    def _times_what_decides(self) -> Self:
        choose_timed_batch(self.optimize_for, self.batch)
        return self

    def run(
        self,
        out: Path,
        *,
        teacher: Model,
        answers: Answers,
        reference: OnnxModel,
        student: Weights,
        control: Weights,
        onnx: OnnxModel,
        model: OnnxModel,
        engine: Engine,
        production: Production,
    ) -> Facts:
        """Measure all hops that this machine can run.

        Raises StageError for a hop that cannot answer, and for stored answers that are not the
        teacher's.
        """
        with production.build_engine() as rebuilt:
            chain = (teacher, reference, student, control, onnx, model, rebuilt, engine)
            models = select_runnable(dict(zip(HOPS, chain, strict=True)))
            bench = self.open_bench(teacher, answers)
            stored.check_answers(teacher.load_task(), teacher, answers, self.device)
            outputs = score_hops(bench, models, answers)
            check_shapes(outputs)
            if (
                {"production", "engine"} <= outputs.keys()
                and production.is_same_model(model, bench.task)
                and repeats_answers(outputs["engine"], outputs["production"])
            ):
                # both are of one graph and answer alike: nothing about the drop is uncertain
                outputs["production"] = replace(outputs["engine"], hop="production")
            ledger, times = self.measure_hops(bench, models, outputs)
        ledger = replace(ledger, why_opaque=answers.why_opaque)
        save_file(collect_payload(outputs, times, bench.targets), out / "hops.safetensors")
        if engine.why_not_run:
            absent = describe_model(
                Hop("engine", was_run=False, why_not_run=engine.why_not_run), engine
            )
            ledger = replace(ledger, hops={**ledger.hops, "engine": absent})
        inputs: dict[str, Artifact] = {**models, "answers": answers, "engine": engine}
        lineage = {name: {"key": each.key, "digest": each.digest} for name, each in inputs.items()}
        return {**ledger_to_json(ledger), "lineage": lineage}

    def open_bench(self, teacher: Model, answers: Answers) -> Bench:
        """Raises StageError for a split or a batch that proves nothing."""
        task = load_task(self.task)
        path = TeacherPath.read(task, answers, "test")
        split = task.split("test")
        bench = Bench(task, split, self.batch, teacher_path=path, device=self.device)
        for checked in (bench, bench.of(teacher)):
            checked.check()
        return bench

    def measure_hops(
        self, bench: Bench, models: Mapping[str, Model], outputs: Mapping[str, HopOutputs]
    ) -> tuple[Ledger, TimingRun]:
        """Return the ledger of these hops, and the times of all calls."""
        task, comparer = bench.task, bench.comparer
        timed = select_timed(models)
        sizes = {hop: bench.sizes(hop, model) for hop, model in models.items()}
        memory = {hop: bench.memory(hop, model) for hop, model in timed.items()}
        times = bench.times(timed, self.repeats, self.seconds)
        speed_batch = choose_timed_batch(self.optimize_for, self.batch)
        hops = comparer.build_hops(outputs)
        ledger = Ledger(
            hops={
                hop: replace(
                    describe_model(hops[hop], model),
                    sizes=sizes[hop],
                    memory_bytes=memory.get(hop),
                    latencies=times.summarize_latency(hop),
                    device=times.devices.get(hop, "cpu"),
                )
                for hop, model in models.items()
            },
            samples=len(bench.split),
            score_name=task.score_name,
            task=self.task,
            batch=self.batch,
            classes=tuple(task.classes),
            kinds={name: output.kind for name, output in task.outputs.items()},
            speedups=compute_speedups(times, speed_batch),
            speed_batch=speed_batch,
            gain=comparer.compute_gain(outputs),
            leak=find_near_duplicates(task),
            timing=times.conditions,
            machine=describe_machine(),
        )
        return ledger, times


def select_runnable(chain: Mapping[str, Model]) -> dict[str, Model]:
    """Return the models that are there and run on this machine."""
    return {
        hop: model
        for hop, model in chain.items()
        if not model.is_disabled and not (isinstance(model, Engine) and model.why_not_run)
    }


def select_timed(models: Mapping[str, Model]) -> dict[str, Model]:
    """Return the models without a program, which may be a service elsewhere, and without what is in
    production where its engine does not run here."""
    return {
        hop: model
        for hop, model in models.items()
        if not isinstance(model, TextProgram | Production)
    }


def score_hops(
    bench: Bench, models: Mapping[str, Model], answers: Answers
) -> dict[str, HopOutputs]:
    """Return the outputs of the teacher, as they are stored, and of all other hops."""
    outputs: dict[str, HopOutputs] = {"teacher": bench.score_teacher(answers)}
    for hop in HOPS:
        if hop in models and hop != "teacher":
            outputs[hop] = bench.score_model(hop, models[hop])
    return outputs


def compute_speedups(times: TimingRun, batch: int) -> dict[Baseline, Comparison]:
    """Return how many times as fast as each baseline the engine answers so many samples.

    The median over rounds, in which both took their turn. Empty if the engine was not run; without
    a baseline that was timed on another device, but for the engine in production, which is there
    as fast as it is.
    """
    speedups: dict[Baseline, Comparison] = {}
    if "engine" not in times.seconds:
        return speedups
    engine = times.seconds["engine"][batch]
    for baseline in SPEED_BASELINES:
        device = times.devices.get(baseline)
        if device == times.devices["engine"] or (device and baseline == "production"):
            ratios = times.seconds[baseline][batch] / engine
            value, bounds = float(np.median(ratios)), statistics.bound_median(ratios)
            speedups[baseline] = Comparison(
                "speedup", "engine", baseline, value, bounds, len(engine)
            )
    return speedups


def collect_payload(
    outputs: Mapping[str, HopOutputs], times: TimingRun, targets: Arrays
) -> dict[str, Array]:
    arrays: dict[str, Any] = {f"target.{name}": array for name, array in targets.items()}
    for hop, scored in outputs.items():
        arrays |= {f"{hop}.output.{name}": array for name, array in scored.outputs.items()}
        for name, followed in scored.followed.items():
            packed = pack_followed(followed)
            arrays |= {f"{hop}.{part}.{name}": array for part, array in packed.items()}
        arrays[f"{hop}.statistics"] = scored.statistics
        seconds = times.seconds.get(hop, {})
        arrays |= {f"{hop}.seconds.{batch}": taken for batch, taken in seconds.items()}
    # save_file writes the buffer as it lies
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
