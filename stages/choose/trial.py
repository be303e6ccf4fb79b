"""Trial: what every candidate of a target answers on the validation split, and how fast, all timed in the same rounds."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from safetensors.numpy import save_file

from attar.models.task import SplitName, load_task
from attar.pipeline.core.stage import CodeName, Facts, Stage
from attar.pipeline.keys import machine
from attar.proof import ledger, timing
from attar.stages.artifacts import Answers, Engine, Model, OnnxModel, Trials
from attar.stages.measure.bench import Bench
from attar.stages.measure.stage import check_shapes, describe_model, summarize_latency

SPLIT: SplitName = "validation"


class MeasureCandidates(Stage[Trials]):
    """Nothing is decided here, so that another promise times nothing again. Choosing is done on validation: the engine that is
    chosen is judged on test, which has no part in it.

    Facts: ``task``, ``split``, ``samples``, ``score_name``, ``batch``, ``machine``, ``timing``, ``hops`` (teacher and fp32 graph)
    and ``candidates``, in the recipe's order: ``candidate``, ``title``, ``asked``, ``status`` (``measured``, ``refused`` or
    ``not run here``), ``why``, and of a measured one the columns of ``Measure``, ``previous`` being the fp32 graph.
    """

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    candidates: tuple[dict[str, Any], ...] = ()
    """Forms of this target to choose from: tables with any settings of its model and engine, whose defaults are those of the
    target; or ``"all"``: what this machine can run."""
    batch: int = Field(32, ge=1)
    """Samples a call when a split is answered, and the second batch size that is timed, besides 1."""
    repeats: int = Field(200, ge=timing.MIN_ROUNDS)
    """Timed calls of each candidate at each batch size."""
    seconds: float = Field(8, gt=0)
    """At most about so long for one batch size."""

    def run(self, out: Path, *, answers: Answers, onnx: OnnxModel, **engines: Engine) -> Facts:
        """Raises StageError for a candidate that cannot answer, and for stored answers that are not of this split."""
        task = load_task(self.task)
        bench = Bench(task, task.split(SPLIT), self.batch, SPLIT)
        bench.check()
        about = {
            "task": self.task,
            "split": SPLIT,
            "samples": len(bench.split),
            "score_name": task.score_name,
        }
        about |= {"batch": self.batch, "machine": machine.describe_machine()}
        rows = dict(
            zip(
                engines,
                map(
                    describe_candidate,
                    engines,
                    make_titles(self.candidates),
                    self.candidates,
                    engines.values(),
                ),
                strict=True,
            )
        )
        here = {
            name: engine for name, engine in engines.items() if rows[name]["status"] == "measured"
        }
        if not here:
            return {**about, "hops": [], "timing": None, "candidates": list(rows.values())}
        proven = prove_candidates(bench, answers, {"onnx": onnx, **here})
        pinned = all(engine.facts["threads"] == 1 for engine in here.values())
        times, how = bench.times(here, self.repeats, self.seconds, pinned=pinned)
        save_file(
            {f"{name}.{batch}": taken for name in times for batch, taken in times[name].items()},
            out / "seconds.safetensors",
        )
        for name, engine in here.items():
            found = {
                **describe_model(engine),
                **proven[name],
                "threads": engine.facts["threads"],
                "sizes": bench.sizes(name, engine),
            }
            rows[name] |= found | {"latency": summarize_latency(times, name)}
        hops = [{"hop": hop, "status": "measured", **proven[hop]} for hop in ("teacher", "onnx")]
        return {**about, **how, "hops": hops, "candidates": list(rows.values())}


def describe_candidate(
    name: str, title: str, asked: Mapping[str, Any], engine: Engine
) -> dict[str, Any]:
    """What is known of a candidate before it is asked anything."""
    absent = engine.facts.get("why")
    status = "refused" if engine.refused else "not run here" if absent else "measured"
    return {
        "candidate": name,
        "title": title,
        "asked": dict(asked),
        "status": status,
        "why": engine.refused or absent,
    }


def make_titles(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each is called: runtime, precision, and what is not the same in all. ``"onnxruntime int8, threads 2"``."""
    keys = dict.fromkeys(key for own in candidates for key in own)
    told = [key for key in keys if key not in ("runtime", "precision")]
    told = [
        key for key in told if any(own.get(key) != candidates[0].get(key) for own in candidates)
    ]
    return [
        ", ".join(
            [
                f"{own.get('runtime', 'onnxruntime')} {own.get('precision', 'fp32')}",
                *(
                    f"{key} {own[key] if isinstance(own[key], str) else json.dumps(own[key])}"
                    for key in told
                    if key in own
                ),
            ]
        )
        for own in candidates
    ]


def prove_candidates(
    bench: Bench, answers: Answers, models: Mapping[str, Model]
) -> dict[str, dict[str, Any]]:
    """The proof columns of the teacher, the fp32 graph and every candidate, each candidate against both."""
    task, targets = bench.task, bench.targets()
    of = {"teacher": ledger.score_outputs(task, bench.recorded(answers), targets)}
    of |= {
        name: ledger.score_outputs(task, bench.answers(name, model), targets)
        for name, model in models.items()
    }
    check_shapes(of)
    return ledger.build_ledger(
        of, ledger.Comparer(task, ledger.find_labels(task, targets)), list_candidate_baselines
    )


def list_candidate_baselines(name: str, measured: Container[str]) -> dict[str, str]:
    """Its graph is an optimized one that nobody asks; what its precision cost shows against the graph in fp32."""
    return (
        {"teacher": "teacher"}
        if name in ("teacher", "onnx")
        else {"teacher": "teacher", "previous": "onnx"}
    )
