"""The attempts, in order, when a graph in int8 or fp16 loses too much."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from attar.engines.graphs import int8
from attar.engines.graphs.half_precision import halve_float_nodes
from attar.engines.graphs.int8 import QuantizationSpec
from attar.engines.graphs.placement import MULTIPLYING
from attar.models.task import Task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Device, Facts, open_scratch
from attar.stages.artifacts import Answers, Ranges, Weights
from attar.stages.learning.settings import TrainingSettings
from attar.stages.optimize import fp16
from attar.stages.optimize.fidelity import measure_correlation
from attar.stages.optimize.ladder import Attempt, AttemptResult, run_attempts, select_best
from attar.stages.optimize.sensitivity import measure_sensitivity

METHODS = ("percentile", "entropy", "mse")
"""The other range methods."""
STRICTER = (0.01, 0.001)
"""How far tensors in half precision may be away, after ``fp16.HUGE``.

A float32 that is rounded to half precision is 0.0002 to 0.0005 of itself away.
"""
TUNING_BATCH = 64
Tune = Callable[[Path, Path, Path, int], Facts]
"""``tune(source, quantized, target, levels)``; see ``tuning.distil_graph``."""


@dataclass(frozen=True)
class Tuning:
    """Quantization-aware distillation on the stored answers.

    It computes in fp32, because bf16 would round before int8 does. Weights do not decay.
    """

    task: str
    student: Weights
    answers: Answers
    out: Path
    epochs: int
    learning_rate: float
    seed: int
    device: Device

    def run(self, source: Path, quantized: Path, target: Path, levels: int) -> Facts:
        from attar.stages.optimize.tuning import distil_graph

        settings = self.make_settings()
        return distil_graph(source, quantized, target, self.answers, settings, self.out, levels)

    def make_settings(self) -> TrainingSettings:
        return TrainingSettings(
            task=self.task,
            network=self.student.facts["network"],
            options=self.student.facts["options"],
            epochs=self.epochs,
            batch=TUNING_BATCH,
            learning_rate=self.learning_rate,
            weight_decay=0,
            schedule="cosine",
            precision="fp32",
            seed=self.seed,
            device=self.device,
        )


@dataclass
class Int8Attempts:
    """A scale for each channel, other ranges, fewer int8 nodes, then a training of the graph.

    Each attempt starts from the best one so far.
    """

    source: Path
    calibration: Ranges
    spec: QuantizationSpec
    task: Task
    tune: Tune | None
    forms: dict[str, QuantizationSpec] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    """The loss of correlation by node, of the costliest ones, if it was measured."""

    def __call__(self, results: Sequence[AttemptResult]) -> Iterator[Attempt]:
        yield self.make_attempt("per-channel" if self.spec.per_channel else "per-tensor", self.spec)
        if not self.spec.per_channel:
            yield self.make_attempt("per-channel", replace(self.spec, per_channel=True))
        for method in METHODS:
            if method != self.spec.method:
                yield self.make_attempt(method, replace(self.best_spec(results), method=method))
        yield from self.exclude_costliest(self.best_spec(results))
        if tune := self.tune:
            yield Attempt(
                "distillation", lambda file: self.distil(tune, self.best_spec(results), file)
            )

    def make_attempt(self, name: str, form: QuantizationSpec) -> Attempt:
        self.forms[name] = form
        return Attempt(name, lambda file: self.write_graph(self.source, file, form))

    def best_spec(self, results: Sequence[AttemptResult]) -> QuantizationSpec:
        return self.forms[select_best(results).name]

    def write_graph(self, source: Path, file: Path, form: QuantizationSpec) -> Facts:
        """Write the int8 graph, with the costly nodes in half precision if that is faster."""
        ranges = self.calibration.compute_ranges(form.method)
        facts = int8.write_int8_graph(source, file, ranges, form)
        half = self.costs.keys() & form.exclude.keys()
        if half and form.placement.halves:
            seen = self.calibration.compute_ranges()  # ``ranges`` may leave out what overflows
            return halve_float_nodes(file, source, seen, half, facts)
        return facts

    def exclude_costliest(self, form: QuantizationSpec) -> Iterator[Attempt]:
        """Yield attempts with 1, 2, 4, ... of the costliest nodes out of int8.

        They are in half precision if the runtime gains from that, else in float. At least half of
        the multiplying nodes stay in int8: with fewer it would be another precision.
        """
        ranges = self.calibration.compute_ranges(form.method)
        inside = [
            node.name
            for node in int8.quantize_graph(self.source, ranges, form).inside
            if node.op_type in MULTIPLYING
        ]
        costs = measure_sensitivity(self.source, ranges, form, self.task)
        self.costs |= {name: cost for name, cost in costs.items() if cost > 0}
        for count in list_powers_of_two(len(self.costs)):
            worst = list(self.costs)[:count]
            if 2 * len(set(inside) & set(worst)) > len(inside):
                break
            reasons = {name: f"costs {self.costs[name]:.2g} of the correlation" for name in worst}
            exclude = {**form.exclude, **reasons}
            yield self.make_attempt(f"without-{count}", replace(form, exclude=exclude))

    def distil(self, tune: Tune, form: QuantizationSpec, file: Path) -> Facts:
        """Train the graph without half precision, which a CPU computes slowly."""
        plain, floats = file.with_name("untuned.onnx"), file.with_name("tuned.onnx")
        int8.write_int8_graph(
            self.source, plain, self.calibration.compute_ranges(form.method), form
        )
        tuning = tune(self.source, plain, floats, form.levels)
        return {**self.write_graph(floats, file, form), "tuning": tuning}


@dataclass
class Fp16Attempts:
    """More and more islands of float."""

    source: Path
    ranges: Mapping[str, tuple[float, float]]
    task: Task
    exclude: Sequence[str]

    def __call__(self, results: Sequence[AttemptResult]) -> Iterator[Attempt]:
        for allowed in (fp16.HUGE, *STRICTER):
            yield Attempt(f"within-{allowed:g}", self.make_writer(allowed))

    def make_writer(self, allowed: float) -> Callable[[Path], Facts]:
        return lambda file: fp16.write_fp16_graph(
            self.source, file, self.ranges, self.task, self.exclude, allowed
        )


Plan = Int8Attempts | Fp16Attempts


def write_best_graph(
    out: Path, plan: Plan, floor: float, task: Task, student: Weights, answers: Answers
) -> Facts:
    """Write the graph of the best attempt into ``out``, and return its facts with these.

    They are ``floor``, ``reached``, ``rung`` (the attempt that is kept), ``student`` (its
    correlation in float), ``rungs`` (each attempt with its ``correlation`` and facts) and, if it
    was measured, ``sensitivity`` (the cost of the costliest nodes).
    """
    student_correlation = check_student(student, floor)
    scratch = open_scratch(out)
    results = run_attempts(
        plan, lambda file: measure_correlation(file, task, answers), floor, scratch
    )
    best = select_best(results)
    shutil.copyfile(best.file, out / "model.onnx")
    rungs = [
        {"rung": result.name, "correlation": result.correlation, **result.facts}
        for result in results
    ]
    facts: dict[str, object] = {
        **best.facts,
        "floor": floor,
        "reached": best.correlation >= floor,
        "rung": best.name,
        "student": student_correlation,
        "rungs": rungs,
    }
    if isinstance(plan, Int8Attempts) and plan.costs:
        facts["sensitivity"] = plan.costs
    return facts


def check_student(student: Weights, floor: float) -> float:
    """Return the student's correlation with the teacher.

    Raises StageError if it was not measured, or is below the floor.
    """
    correlation: float | None = student.facts.get("correlation")
    if correlation is None:
        raise StageError(
            f"floor = {floor} is compared with the student's correlation with the teacher, but "
            "that was never measured: the student was not distilled (its facts: "
            f"{', '.join(sorted(student.facts))}); leave out floor, or distil one"
        )
    if correlation < floor:
        raise StageError(
            f"floor = {floor}, but on validation the student itself has a correlation of "
            f"{correlation} with the teacher: what it lacks is not precision; lower the floor, or "
            "distil a better student"
        )
    return correlation


def list_powers_of_two(most: int) -> list[int]:
    """Return 1, 2, 4, ... up to the limit."""
    return [1 << power for power in range(most.bit_length()) if 1 << power <= most]
