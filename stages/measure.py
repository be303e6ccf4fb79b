"""Measure: what every hop from the teacher to the engine answers on the test split, and how fast, in one ledger."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from safetensors.numpy import save_file

from attar.models import views
from attar.models.task import Array, Arrays, Predictor, Split, Task, load_task
from attar.pipeline import machine
from attar.pipeline.errors import StageError
from attar.pipeline.progress import advance
from attar.pipeline.stage import Artifact, CodeName, Facts, Stage
from attar.stages.artifacts import Answers, Engine, Evidence, Model, OnnxModel, Weights
from attar.stages.proof import ledger, timing
from attar.stages.proof.ledger import Answered

RUNTIMES = {"onnxruntime": "ONNX Runtime"}


class Measure(Stage[Evidence]):
    """Facts: the ledger (``hops`` in the order of the chain, see ``ledger.entry`` and ``described``), ``task``, ``split``,
    ``samples``, ``score_name``, ``classes``, ``batch``, ``oacc`` (the teacher's score), ``control`` (its score, or None),
    ``speedup`` (of the engine over the reference and over the teacher), ``machine``, ``timing``, ``lineage``.

    ``hops.safetensors``: ``HOP.output.NAME`` [samples, ...], ``HOP.statistics`` [samples, k], ``HOP.seconds.BATCH`` [rounds]
    (entry i of all hops is from the same round), ``target.NAME``.
    """

    bound_to_machine: ClassVar[bool] = True
    follows: ClassVar[tuple[str, ...]] = ("attar.stages.runtimes.torch:opened", "attar.stages.runtimes.onnxruntime:opened")

    task: CodeName
    batch: int = Field(32, ge=1)
    """Samples a call when the test split is answered, and the second batch size that is timed, besides 1."""
    repeats: int = Field(200, ge=timing.LEAST)
    """Timed calls of each hop at each batch size."""
    seconds: float = Field(8, gt=0)
    """At most about so long for one batch size."""

    def run(
        self,
        out: Path,
        *,
        teacher: Weights,
        answers: Answers,
        reference: OnnxModel,
        student: Weights,
        control: Weights,
        onnx: OnnxModel,
        model: OnnxModel,
        engine: Engine,
    ) -> Facts:
        chain = {"teacher": teacher, "reference": reference, "student": student, "control": control}
        models: dict[str, Model] = {**chain, "onnx": onnx, "model": model, "engine": engine}
        if control.off:
            del models["control"]
        task = load_task(self.task)
        bench = Bench(task, task.split("test"), self.batch)
        bench.check()
        targets = bench.targets()
        of = {"teacher": ledger.answered(task, bench.recorded(answers), targets)}
        of |= {hop: ledger.answered(task, bench.answers(hop, each), targets) for hop, each in models.items() if hop != "teacher"}
        check_shapes(of)
        memory = {hop: bench.memory(hop, each) for hop, each in models.items()}
        times, how = bench.times(models, self.repeats, self.seconds)
        save_file(payload(of, times, targets), out / "hops.safetensors")
        proof = ledger.Comparer(task, ledger.labels(task, targets))
        entries = [
            {"hop": hop, **described(each), **ledger.entry(hop, of, proof), "latency": latency(times, hop), "memory": memory[hop]}
            for hop, each in models.items()
        ]
        inputs: dict[str, Artifact] = {**models, "answers": answers}
        lineage = {name: {"key": each.key, "digest": each.digest} for name, each in inputs.items()}
        how |= {"machine": machine.describe(), "lineage": lineage}
        return {**self._about(task, len(bench.split)), **found(entries), **how}

    def _about(self, task: Task, samples: int) -> dict[str, Any]:
        return {
            "task": self.task,
            "split": "test",
            "samples": samples,
            "score_name": task.score_name,
            "classes": list(task.classes),
            "batch": self.batch,
        }


@dataclass(frozen=True)
class Bench:
    """One task's test split, and what is asked of every hop on it."""

    task: Task
    split: Split
    batch: int

    def check(self) -> None:
        low, high = self.task.ranges.get("batch", (1, 1))
        if not low <= self.batch <= high:
            raise StageError(f"batch {self.batch} is outside the {low} to {high} that the task promises; set the target's batch")
        if len(self.split) == 0:
            raise StageError("the test split is empty: nothing can be measured; give the task test samples")

    def targets(self) -> dict[str, Array]:
        parts = [seen.targets for seen in views.clean(self.task, self.split)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def recorded(self, answers: Answers) -> dict[str, Array]:
        """The teacher's answers. Raises StageError when they are not of this split."""
        made = answers.of("test")
        if any(len(array) != len(self.split) for array in made.values()):
            raise StageError(f"the stored answers are not of these {len(self.split)} test samples; delete them and run again")
        return made

    def answers(self, hop: str, model: Model) -> dict[str, Array]:
        """Outputs for the whole split, in its order."""
        with model.open() as predictor:
            parts = [self.ask(hop, predictor, inputs) for inputs in self.batches(hop)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.task.outputs}

    def batches(self, hop: str) -> Iterator[dict[str, Array]]:
        for seen in views.clean(self.task, self.split):
            for start in range(0, len(seen.indices), self.batch):
                yield seen.take(np.arange(start, min(start + self.batch, len(seen.indices)))).inputs
            advance(f"measuring {hop}", int(seen.indices[-1]) + 1, len(self.split))

    def ask(self, hop: str, predictor: Predictor, inputs: Arrays) -> dict[str, Array]:
        """Raises StageError with the hop's name, whatever its runtime raises."""
        try:
            made = self.task.answer(predictor.graphs, inputs)
        except Exception as error:
            shapes = {name: array.shape for name, array in inputs.items()}
            raise StageError(f"{hop} cannot answer inputs of shape {shapes}: {error}") from error
        missing = set(self.task.outputs) - set(made)
        if missing:
            raise StageError(f"{hop} gives {sorted(made)} and lacks {sorted(missing)}, which the task names")
        return made

    def first(self, samples: int) -> dict[str, Array]:
        """The first samples of the split, from the start again where it has fewer."""
        rows = np.arange(samples) % min(len(self.split), views.CHUNK)
        return views.chunk(self.task, self.split, 0).take(rows).inputs

    def memory(self, hop: str, model: Model) -> int | None:
        """Resident bytes that opening it and answering one batch add, libraries not counted: ``answers`` loaded them."""
        inputs = self.first(self.batch)
        gc.collect()
        before = timing.resident()
        with model.open(threads=1) as predictor:
            self.ask(hop, predictor, inputs)
            after = timing.resident()
        return max(0, after - before) if before is not None and after is not None else None

    def times(
        self, models: Mapping[str, Model], repeats: int, seconds: float
    ) -> tuple[dict[str, dict[int, timing.Seconds]], dict[str, Any]]:
        """``{hop: {batch: seconds of each call}}`` on one thread of one core, all hops opened at once, and how it was taken."""
        times: dict[str, dict[int, timing.Seconds]] = {hop: {} for hop in models}
        loads = [timing.load_average()]
        with ExitStack() as stack:
            opened = {hop: stack.enter_context(each.open(threads=1)) for hop, each in models.items()}
            cpu = stack.enter_context(timing.pinned())
            for done, batch in enumerate(sizes := sorted({1, self.batch})):
                advance("timing", done, len(sizes), f"batch {batch}")
                inputs = self.first(batch)
                calls = {hop: partial(self.ask, hop, each, inputs) for hop, each in opened.items()}
                for hop, taken in timing.interleaved(calls, repeats, seconds).items():
                    times[hop][batch] = taken
        rounds = {str(batch): len(taken) for batch, taken in times["engine"].items()}
        loads.append(timing.load_average())
        return times, {"timing": {"cpu": cpu, "threads": 1, "rounds": rounds, "load_average": loads}}


def check_shapes(of: Mapping[str, Answered]) -> None:
    """Raises StageError for the first hop whose outputs have another shape than the teacher's."""
    for hop, answered in of.items():
        for name, array in answered.outputs.items():
            wanted = of["teacher"].outputs[name].shape
            if array.shape != wanted:
                raise StageError(f"{hop} answers {name!r} of shape {array.shape}, the teacher {wanted}; look at how it was made")


def described(model: Model) -> dict[str, Any]:
    """The columns that need no measuring."""
    facts = model.facts
    made = RUNTIMES.get(facts["runtime"], facts["runtime"]) if isinstance(model, Engine) else "ONNX"
    weights = isinstance(model, Weights)
    return {
        "format": "PyTorch" if weights else made,
        "precision": "fp32" if weights else facts["precision"],
        "status": "measured",
        "why": None,
        "parameters": facts.get("parameters"),
        "bytes": model.size,
    }


def latency(times: Mapping[str, Mapping[int, timing.Seconds]], hop: str) -> dict[str, Any]:
    return {str(batch): timing.summary(taken, batch) for batch, taken in times[hop].items()}


def found(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The hops, and what is read off them at a glance."""
    by = {entry["hop"]: entry for entry in entries}
    p50 = {hop: entry["latency"]["1"]["p50"] for hop, entry in by.items()}
    return {
        "hops": entries,
        "oacc": by["teacher"]["score"],
        "control": by["control"]["score"] if "control" in by else None,
        "speedup": {hop: p50[hop] / p50["engine"] for hop in ("reference", "teacher")},
    }


def payload(of: Mapping[str, Answered], times: Mapping[str, Mapping[int, timing.Seconds]], targets: Arrays) -> dict[str, Array]:
    saved: dict[str, Array] = {f"target.{name}": array for name, array in targets.items()}
    for hop, answered in of.items():
        saved |= {f"{hop}.output.{name}": array for name, array in answered.outputs.items()}
        saved |= {f"{hop}.statistics": answered.statistics}
        saved |= {f"{hop}.seconds.{batch}": taken for batch, taken in times[hop].items()}
    return {name: np.ascontiguousarray(array) for name, array in saved.items()}  # save_file writes the buffer as it lies
