"""Measure: what every hop from the teacher to the engine answers on the test split, and how fast, in one ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from safetensors.numpy import save_file

from attar.engines.runtimes import runtime as runtimes
from attar.models.task import Array, Arrays, Task, load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Artifact, CodeName, Facts, Stage
from attar.pipeline.keys import machine
from attar.proof import leak, ledger, statistics, timing
from attar.proof.ledger import HopOutputs
from attar.stages.artifacts import Answers, Engine, Evidence, Model, OnnxModel, Production, Weights
from attar.stages.measure import stored
from attar.stages.measure.bench import Bench


class Measure(Stage[Evidence]):
    """Facts: the ledger (``hops`` in the order of the chain, see ``build_ledger`` and ``describe_model``), ``task``, ``split``,
    ``samples``, ``score_name``, ``classes``, ``kinds`` (of outputs), ``leak`` (see
    ``leak.find_near_duplicates``), ``batch``, ``oacc`` (the teacher's score), ``control`` (its score, or None), ``gain`` (of the
    student's score over the control's), ``speedup`` (of the engine over the reference, the teacher and what is in production),
    ``machine``, ``timing``, ``lineage``.

    ``hops.safetensors``: ``HOP.output.NAME`` [samples, ...], ``HOP.statistics`` [samples, k], ``HOP.seconds.BATCH`` [rounds]
    (entry i of all hops is from the same round), ``target.NAME``.

    An engine that this machine cannot run is a hop of ``status`` "not run here" with ``why``, and without numbers.
    """

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    batch: int = Field(32, ge=1)
    """Samples a call when the test split is answered, and the second batch size that is timed, besides 1."""
    repeats: int = Field(200, ge=timing.MIN_ROUNDS)
    """Timed calls of each hop at each batch size."""
    seconds: float = Field(8, gt=0)
    """At most about so long for one batch size."""

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
        """Raises StageError for a hop that cannot answer, and for stored answers that are not the teacher's."""
        chain: dict[str, Model] = {
            "teacher": teacher,
            "reference": reference,
            "student": student,
            "control": control,
        }
        chain |= {"onnx": onnx, "model": model, "production": production, "engine": engine}
        models = {hop: each for hop, each in chain.items() if not each.is_disabled}
        if engine.why_not_run:
            del models["engine"]
        task = load_task(self.task)
        bench = Bench(task, task.split("test"), self.batch)
        for each in (bench, bench.of(teacher)):
            each.check()
        stored.check_answers(teacher.load_task(), teacher, answers)
        targets = bench.targets()
        of = {"teacher": ledger.score_outputs(task, bench.recorded(answers), targets)}
        of |= {
            hop: ledger.score_outputs(task, bench.answers(hop, each), targets)
            for hop, each in models.items()
            if hop != "teacher"
        }
        if {"production", "engine"} <= of.keys() and production.is_same_model(model, task):
            of["production"] = of[
                "engine"
            ]  # the engine is built from this very graph: nothing about the drop is uncertain
        check_shapes(of)
        asked = {
            hop: {"sizes": bench.sizes(hop, each), "memory": bench.memory(hop, each)}
            for hop, each in models.items()
        }
        times, how = bench.times(models, self.repeats, self.seconds)
        save_file(collect_payload(of, times, targets), out / "hops.safetensors")
        proof = ledger.Comparer(task, ledger.find_labels(task, targets))
        proven = ledger.build_ledger(of, proof)
        entries = [
            {
                "hop": hop,
                **describe_model(each),
                **proven[hop],
                **asked[hop],
                "latency": summarize_latency(times, hop),
            }
            for hop, each in models.items()
        ]
        if engine.why_not_run:
            entries.append(describe_absent(engine))
        inputs: dict[str, Artifact] = {**models, "answers": answers, "engine": engine}
        lineage = {name: {"key": each.key, "digest": each.digest} for name, each in inputs.items()}
        how |= {
            "gain": ledger.compute_gain(of, proof),
            "speedup": compute_speedups(times),
            "machine": machine.describe_machine(),
            "lineage": lineage,
        }
        leaked = leak.find_near_duplicates(task)
        return {
            **self._about(task, len(bench.split)),
            "leak": leaked,
            **summarize_hops(entries),
            **how,
        }

    def _about(self, task: Task, samples: int) -> dict[str, Any]:
        return {
            "task": self.task,
            "split": "test",
            "samples": samples,
            "score_name": task.score_name,
            "classes": list(task.classes),
            "kinds": {name: output.kind for name, output in task.outputs.items()},
            "batch": self.batch,
        }


def check_shapes(of: Mapping[str, HopOutputs]) -> None:
    """Raises StageError for the first hop whose outputs have another shape than the teacher's."""
    for hop, answered in of.items():
        for name, array in answered.outputs.items():
            wanted = of["teacher"].outputs[name].shape
            if array.shape != wanted:
                raise StageError(
                    f"{hop} answers {name!r} of shape {array.shape}, the teacher {wanted}; look at how it was made"
                )


def describe_absent(engine: Engine) -> dict[str, Any]:
    """The columns of an engine that was not run here."""
    known = {
        name: column
        for name, column in describe_model(engine).items()
        if name in ("format", "precision")
    }
    return {"hop": "engine", **known, "status": "not run here", "why": engine.why_not_run}


def describe_model(model: Model) -> dict[str, Any]:
    """The columns that need no measuring."""
    facts = model.facts
    made = runtimes.load_runtime(facts["runtime"]).title if isinstance(model, Engine) else "ONNX"
    weights = isinstance(model, Weights)
    return {
        "format": "PyTorch" if weights else made,
        "precision": "fp32" if weights else facts["precision"],
        "status": "measured",
        "why": None,
        "parameters": facts.get("parameters"),
        "bytes": model.size,
    }


def summarize_latency(
    times: Mapping[str, Mapping[int, timing.Seconds]], hop: str
) -> dict[str, Any]:
    return {str(batch): timing.summarize_times(taken, batch) for batch, taken in times[hop].items()}


def summarize_hops(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The hops, and what is read off them at a glance."""
    by = {entry["hop"]: entry for entry in entries}
    return {
        "hops": entries,
        "oacc": by["teacher"]["score"],
        "control": by["control"]["score"] if "control" in by else None,
    }


def compute_speedups(times: Mapping[str, Mapping[int, timing.Seconds]]) -> dict[str, Any]:
    """How many times as fast as others the engine answers one sample: the median over rounds, in which both took their turn.

    Nothing where the engine was not run.
    """
    if "engine" not in times:
        return {"bounds": {}, "rounds": 0}
    ratios = {
        hop: times[hop][1] / times["engine"][1]
        for hop in ("reference", "teacher", "production")
        if hop in times
    }
    found: dict[str, Any] = {hop: float(np.median(each)) for hop, each in ratios.items()}
    bounds = {hop: list(statistics.bound_median(each)) for hop, each in ratios.items()}
    return {**found, "bounds": bounds, "rounds": len(times["engine"][1])}


def collect_payload(
    of: Mapping[str, HopOutputs], times: Mapping[str, Mapping[int, timing.Seconds]], targets: Arrays
) -> dict[str, Array]:
    saved: dict[str, Array] = {f"target.{name}": array for name, array in targets.items()}
    for hop, answered in of.items():
        saved |= {f"{hop}.output.{name}": array for name, array in answered.outputs.items()}
        saved |= {f"{hop}.statistics": answered.statistics}
        saved |= {f"{hop}.seconds.{batch}": taken for batch, taken in times[hop].items()}
    return {
        name: np.ascontiguousarray(array) for name, array in saved.items()
    }  # save_file writes the buffer as it lies
