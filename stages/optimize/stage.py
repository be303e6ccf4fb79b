"""Optimize: precision is baked into the graph, so that every runtime computes the same numbers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, computed_field, model_validator

from attar.engines.cpu import has_saturating_int8
from attar.engines.graphs import int8
from attar.engines.graphs import int8_dynamic as dynamic
from attar.engines.graphs.int8 import EXCLUDED, QuantizationSpec
from attar.engines.graphs.placement import PLACEMENTS, UNSIGNED
from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import CodeName, Device, Facts, Stage, open_scratch
from attar.stages.artifacts import Answers, OnnxModel, Ranges, Weights
from attar.stages.learning.settings import TrainingSettings
from attar.stages.optimize import fp16
from attar.stages.optimize.fidelity import measure_correlation
from attar.stages.optimize.ladder import run_attempts, select_best
from attar.stages.optimize.rungs import Fp16Attempts, Int8Attempts

TUNING_BATCH = 64
CLIMBING = ("fp16", "int8")
"""Precisions that have a ladder."""


class Optimize(Stage[OnnxModel]):
    """What the graph computes in.

    - ``fp32`` keeps the graph.
    - ``fp16`` holds weights and activations in half precision. Inputs and outputs stay float, and
      so do islands where half overflows, which are found by running the graph on validation.
    - ``bf16`` keeps the graph too: OpenVINO computes it in bfloat16, no other runtime here does.
    - ``int8`` puts Q-DQ pairs around operators with int8 kernels, with the calibration's ranges, in
      the placement that the ``runtime`` wants.
    - ``int8-dynamic`` stores the weights of matrix products in int8, and finds the ranges of each
      batch when it is called.

    With a ``floor`` the graph is compared with the teacher on validation. Below the floor, further
    attempts are made in the same precision, each from the best so far. For ``int8`` these are a
    scale for each channel, other range methods, 1, 2, 4 and 8 of the most sensitive nodes out of
    int8, and quantization-aware distillation; for ``fp16`` more islands. The graph most similar to
    the teacher is kept, **also if none reaches the floor**: the floor says when more effort is
    worth it, and is compared with an estimate from the split on which the effort was chosen. What
    is promised are the gates, which limit the same correlation on test, with bounds.

    Facts name what is rounded (``quantized`` or ``half``: nodes by operator) and what is not
    (``float``: node and reason). With a floor they have ``floor``, ``reached``, ``rung`` (the
    attempt that is kept), ``student`` (its correlation in float), ``rungs`` (each attempt with its
    ``correlation`` and facts) and, if it was measured, ``sensitivity`` (the cost of the costliest
    nodes).
    """

    task: CodeName
    precision: Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic"] = "fp32"
    """What the graph's weights and activations are held in."""
    runtime: Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"] = "onnxruntime"
    """What the graph is for. ``onnxruntime`` and ``openvino`` share one int8 graph, unsigned and
    asymmetric; ``tensorrt`` and ``tensorrt-rtx`` another, symmetric."""
    per_channel: bool = True
    """A scale for each output channel of a weight instead of one for the whole weight. Both int8
    only."""
    range_method: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    """How the range of an activation is found from the calibration. int8 only."""
    reduce_range: bool | None = None
    """Weights of 7 bits instead of 8, with which no kernel saturates. Left out: where the CPU that
    builds would saturate (x86 without VNNI), and only for ``onnxruntime`` and ``openvino``. Both
    int8 only."""
    exclude: tuple[str, ...] = ()
    """Names of nodes that stay float. fp16 and both int8 only."""
    floor: float = Field(0.0, ge=0, lt=1)
    """The correlation with the teacher on validation below which the ladder is climbed; 0: never.
    int8 and fp16 only."""
    tuning_epochs: int = Field(2, ge=0)
    """Of the last rung of int8, quantization-aware distillation on the stored answers; 0: without
    it."""
    tuning_learning_rate: float = Field(1e-3, gt=0)
    """The largest of a cosine."""
    seed: int = Field(0, ge=0)
    """Of the order in which the tuning reads its samples."""
    device: Device = "auto"

    @model_validator(mode="after")
    def _floor_has_a_ladder(self) -> Self:
        if self.floor and self.precision not in CLIMBING:
            raise ValueError(
                f"floor climbs a ladder that precision {self.precision!r} does not have; remove "
                "floor, or use 'int8' or 'fp16'"
            )
        return self

    @model_validator(mode="after")
    def _the_runtime_has_it(self) -> Self:
        having = {"bf16": ["openvino"], "int8-dynamic": ["onnxruntime", "openvino"]}.get(
            self.precision, list(PLACEMENTS)
        )
        if self.runtime not in having:
            raise ValueError(
                f"runtime {self.runtime!r} has no precision {self.precision!r}, "
                f"{' and '.join(having)} alone; "
                "use another precision, such as 'fp16'"
            )
        return self

    @computed_field  # type: ignore[prop-decorator]  # of pydantic, on a property
    @property
    def placement(self) -> str:
        """What ``runtime`` decides: where an int8 graph has its Q-DQ pairs."""
        return PLACEMENTS[self.runtime].name

    @computed_field  # type: ignore[prop-decorator]  # of pydantic, on a property
    @property
    def weight_bits(self) -> Literal[7, 8]:
        """What ``reduce_range`` decides, where it is left out with this machine."""
        default = PLACEMENTS[self.runtime] is UNSIGNED and has_saturating_int8()
        return 7 if (default if self.reduce_range is None else self.reduce_range) else 8

    @classmethod
    def meaningless(cls, settings: Mapping[str, Any]) -> Set[str]:
        return (
            set()
            if settings.get("precision") in CLIMBING
            else {"floor", "tuning_epochs", "tuning_learning_rate"}
        )

    @property
    def has_floor(self) -> bool:
        return self.precision in CLIMBING and self.floor > 0

    def deciding(self) -> Set[str]:
        of = {
            "fp16": {"exclude", "task"},
            "int8": {"exclude", "per_channel", "range_method", "placement", "weight_bits"},
            "int8-dynamic": {"exclude", "per_channel", "weight_bits"},
        }
        tuning = {"tuning_epochs", "tuning_learning_rate", "seed"}
        sometimes = {"runtime", "reduce_range", "task", "floor", *tuning, *of["int8"]}
        climbing = (
            {"task", "floor", *(tuning if self.precision == "int8" else ())}
            if self.has_floor
            else set()
        )
        return super().deciding() - sometimes | of.get(self.precision, set()) | climbing

    def reading(self) -> Set[str]:
        calibrated = {"calibration"} if self.precision in CLIMBING else set()
        return {"onnx", *calibrated, *({"student", "answers"} if self.has_floor else ())}

    def run(
        self, out: Path, *, student: Weights, onnx: OnnxModel, calibration: Ranges, answers: Answers
    ) -> Facts:
        """Raises UnsupportedModelError when nothing can be quantized or half precision overflows in
        spite of all; StageError when the calibration belongs to another graph, or the floor is
        above what the student itself has, or that is not known."""
        report_progress("optimize", 0, 1, self.precision)
        if self.has_floor:
            made = self.write_best_attempt(out, student, onnx, calibration, answers)
        else:
            made = self.write_graph(onnx.file(), out / "model.onnx", calibration)
        report_progress("optimize", 1, 1, self.precision)
        passed_on = ("task", "graphs", "opset", "inputs", "outputs", "parameters")
        return {name: onnx.facts[name] for name in passed_on} | {"precision": self.precision} | made

    def write_graph(self, source: Path, target: Path, calibration: Ranges) -> dict[str, Any]:
        if self.precision == "int8":
            return int8.write_int8_graph(
                source, target, calibration.compute_ranges(self.range_method), self.spec
            )
        if self.precision == "int8-dynamic":
            return dynamic.write_dynamic_int8_graph(
                source, target, self.per_channel, self.exclude, self.weight_bits
            )
        if self.precision == "fp16":
            return fp16.write_fp16_graph(
                source, target, calibration.compute_ranges(), load_task(self.task), self.exclude
            )
        shutil.copyfile(source, target)
        return {}

    @property
    def spec(self) -> QuantizationSpec:
        excluded = dict.fromkeys(self.exclude, EXCLUDED)
        return QuantizationSpec(
            PLACEMENTS[self.runtime],
            self.per_channel,
            self.range_method,
            excluded,
            weight_bits=self.weight_bits,
        )

    def write_best_attempt(
        self, out: Path, student: Weights, onnx: OnnxModel, calibration: Ranges, answers: Answers
    ) -> dict[str, Any]:
        """Rung by rung; ``model.onnx`` is the best of them."""
        of_student = student.facts.get("correlation")
        if of_student is None:
            raise StageError(
                f"floor = {self.floor} is compared with the student's correlation with the "
                "teacher, but that was never measured: "
                f"the student was not distilled (its facts: {', '.join(sorted(student.facts))}); "
                "leave out floor, or distil one"
            )
        if of_student < self.floor:
            raise StageError(
                f"floor = {self.floor}, but on validation the student itself has a correlation of "
                f"{of_student} with the teacher: "
                "what it lacks is not precision; lower the floor, or distil a better student"
            )
        task = load_task(self.task)
        plan = self.make_plan(out, student, onnx.file(), calibration, answers)
        tried = run_attempts(
            plan,
            lambda file: measure_correlation(file, task, answers),
            self.floor,
            open_scratch(out),
        )
        kept = select_best(tried)
        shutil.copyfile(kept.file, out / "model.onnx")
        return kept.facts | {
            "floor": self.floor,
            "reached": kept.correlation >= self.floor,
            "rung": kept.name,
            "student": of_student,
            "rungs": [
                {"rung": each.name, "correlation": each.correlation, **each.facts} for each in tried
            ],
            **(
                {"sensitivity": plan.costs} if isinstance(plan, Int8Attempts) and plan.costs else {}
            ),
        }

    def make_plan(
        self, out: Path, student: Weights, source: Path, calibration: Ranges, answers: Answers
    ) -> Int8Attempts | Fp16Attempts:
        task = load_task(self.task)
        if self.precision == "fp16":
            return Fp16Attempts(source, calibration.compute_ranges(), task, self.exclude)

        def tuned(quantized: Path, floats: Path) -> dict[str, Any]:
            from attar.stages.optimize.tuning import distil_graph

            return distil_graph(
                source,
                quantized,
                floats,
                answers,
                self.tuning_settings(student),
                out,
                self.spec.levels,
            )

        return Int8Attempts(
            source, calibration, self.spec, task, tuned if self.tuning_epochs else None
        )

    def tuning_settings(self, student: Weights) -> TrainingSettings:
        """Return the settings of the distillation of the quantized graph.

        It computes in fp32, because bf16 would round before int8 does. Weights do not decay.
        """
        return TrainingSettings(
            task=self.task,
            network=student.facts["network"],
            options=student.facts["options"],
            epochs=self.tuning_epochs,
            batch=TUNING_BATCH,
            learning_rate=self.tuning_learning_rate,
            weight_decay=0,
            schedule="cosine",
            precision="fp32",
            seed=self.seed,
            device=self.device,
        )
