"""Trial: what each candidate of a target answers on validation, and how fast."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from safetensors.numpy import save_file

from attar.models.task import SplitName, load_task
from attar.pipeline.core.stage import CodeName, Facts, Stage
from attar.pipeline.keys.machine import describe_machine
from attar.proof.artifacts import Trials
from attar.proof.comparison.timing import MIN_ROUNDS, Seconds
from attar.proof.ledger.candidates import CandidateLedger, CandidateMeasurement, CandidateStatus
from attar.proof.ledger.candidates_json import measurements_to_json
from attar.proof.ledger.ledger import Hop, Ledger
from attar.stages.artifacts import Answers, Engine, OnnxModel
from attar.stages.measure.bench import Bench, TimingRun
from attar.stages.measure.hops import check_shapes, describe_model
from attar.stages.measure.teacher_path import TeacherPath

SPLIT: SplitName = "validation"


class MeasureCandidates(Stage[Trials]):
    """Measure every candidate on the validation split.

    Nothing is decided here, so that another limit times nothing again. The choice is made on
    validation; the chosen engine is judged on test, which has no part in the choice.

    Facts: the JSON of a ``CandidateLedger`` (see ``proof.ledger.candidates``):
    ``task``, ``split``, ``samples``, ``score_name``, ``batch``, ``machine``, ``timing``, ``hops``
    (teacher and fp32 graph) and ``candidates``, in the recipe's order: ``candidate``, ``title``,
    ``asked``, ``status`` (``measured``, ``refused`` or ``not run here``), ``why``, and the columns
    of ``Measure`` if it was measured, ``previous`` being the fp32 graph.
    """

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    candidates: tuple[dict[str, Any], ...] = ()
    """Forms of this target to choose from: tables with any settings of its model and engine, whose
    defaults are those of the target; or ``"all"``: what this machine can run."""
    batch: int = Field(32, ge=1)
    """Samples a call when a split is answered, and the second batch size that is timed, besides
    1."""
    repeats: int = Field(200, ge=MIN_ROUNDS)
    """Timed calls of each candidate at each batch size."""
    seconds: float = Field(8, gt=0)
    """At most about so long for one batch size."""

    def run(self, out: Path, *, answers: Answers, onnx: OnnxModel, **engines: Engine) -> Facts:
        """Measure all candidates that this machine can run.

        Raises StageError for a candidate that cannot answer, and for stored answers that are not of
        this split.
        """
        task = load_task(self.task)
        path = TeacherPath.read(task, answers, SPLIT)
        bench = Bench(task, task.split(SPLIT), self.batch, SPLIT, path)
        bench.check()
        ledger = Ledger(
            hops={},
            samples=len(bench.split),
            score_name=task.score_name,
            task=self.task,
            split=SPLIT,
            batch=self.batch,
            machine=describe_machine(),
            why_opaque=answers.why_opaque,
        )
        titles = make_titles(self.candidates)
        rows = map(describe_candidate, engines, titles, self.candidates, engines.values())
        candidates = {row.name: row for row in rows}
        runnable = {
            name: engines[name] for name in engines if candidates[name].status == "measured"
        }
        if not runnable:
            return measurements_to_json(CandidateLedger(ledger, candidates))
        hops = prove_candidates(bench, answers, onnx, runnable)
        is_pinned = all(engine.facts["threads"] == 1 for engine in runnable.values())
        times = bench.times(runnable, self.repeats, self.seconds, pinned=is_pinned)
        save_file(flatten_seconds(times), out / "seconds.safetensors")
        for name, engine in runnable.items():
            hop = replace(
                describe_model(hops[name], engine),
                sizes=bench.sizes(name, engine),
                latencies=times.summarize_latency(name),
                device=times.devices[name],
            )
            threads = engine.facts["threads"]
            candidates[name] = replace(candidates[name], hop=hop, threads=threads)
        shared = {hop: hops[hop] for hop in ("teacher", "onnx")}
        ledger = replace(ledger, hops=shared, timing=times.conditions)
        return measurements_to_json(CandidateLedger(ledger, candidates))


def describe_candidate(
    name: str, title: str, settings: Mapping[str, Any], engine: Engine
) -> CandidateMeasurement:
    """Return what is known of a candidate before it is measured."""
    if engine.refused:
        return CandidateMeasurement(name, title, settings, "refused", engine.refused)
    absent = engine.facts.get("why")
    status: CandidateStatus = "not run here" if absent else "measured"
    return CandidateMeasurement(name, title, settings, status, absent)


def make_titles(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a title for each candidate, such as ``onnxruntime int8, threads 2``.

    It holds the runtime, the precision, and what is not the same in all.
    """
    keys = dict.fromkeys(key for settings in candidates for key in settings)
    differing = [
        key
        for key in keys
        if key not in ("runtime", "precision")
        and any(settings.get(key) != candidates[0].get(key) for settings in candidates)
    ]
    return [make_title(settings, differing) for settings in candidates]


def make_title(settings: Mapping[str, Any], differing: Sequence[str]) -> str:
    name = f"{settings.get('runtime', 'onnxruntime')} {settings.get('precision', 'fp32')}"
    values = {key: settings[key] for key in differing if key in settings}
    texts = [
        f"{key} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
    ]
    return ", ".join([name, *texts])


def prove_candidates(
    bench: Bench, answers: Answers, onnx: OnnxModel, engines: Mapping[str, Engine]
) -> dict[str, Hop]:
    """Return the teacher, the fp32 graph and every candidate, each candidate against both.

    A candidate's own graph is not measured; the comparison with the fp32 graph shows what its
    precision costs.
    """
    outputs = {"teacher": bench.score_teacher(answers), "onnx": bench.score_model("onnx", onnx)}
    outputs |= {name: bench.score_model("model", each, name) for name, each in engines.items()}
    check_shapes(outputs)
    return bench.comparer.build_hops(outputs)


def flatten_seconds(times: TimingRun) -> dict[str, Seconds]:
    """Return the calls as ``CANDIDATE.BATCH``."""
    return {
        f"{name}.{batch}": seconds
        for name, batches in times.seconds.items()
        for batch, seconds in batches.items()
    }
