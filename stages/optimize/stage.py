"""Optimize: precision is baked into the graph, so that every runtime computes the same numbers."""

from __future__ import annotations

import shutil
from collections.abc import Set
from functools import partial
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, computed_field, model_validator

from attar.engines.cpu import has_saturating_int8
from attar.engines.graphs import int8, int8_dynamic, int8_weights
from attar.engines.graphs.int8 import EXCLUDED, QuantizationSpec
from attar.engines.graphs.placement import PLACEMENTS, UNSIGNED
from attar.models.generation import find_decoding
from attar.models.task import load_task
from attar.pipeline.core.errors import UnfitSettingsError
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import CodeName, Device, Facts, Stage, UnusedSettingError
from attar.stages.artifacts import Answers, OnnxModel, Ranges, Weights
from attar.stages.optimize import fp16
from attar.stages.optimize.rungs import Fp16Attempts, Int8Attempts, Plan, Tuning, write_best_graph
from attar.stages.optimize.sequences import (
    SEQUENCE_PRECISIONS,
    explain_precision,
    write_sequence_graphs,
)

CLIMBING = ("fp16", "int8")
"""Precisions that have a ladder."""
RUNTIMES = {
    "bf16": ["openvino"],
    "int8-dynamic": ["onnxruntime"],
    "int8-weights": ["onnxruntime"],
}
TUNING = frozenset({"tuning_epochs", "tuning_learning_rate", "seed"})
INT8 = frozenset({"exclude", "per_channel", "weight_bits", "range_method", "placement"})
DECIDING = {
    "fp16": frozenset({"exclude", "task"}),
    "int8": INT8,
    "int8-dynamic": INT8 - {"range_method", "placement"},
    "int8-weights": frozenset({"exclude"}),
}
"""The settings that decide the graph without a floor, by precision."""


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
    - ``int8-weights`` stores them in int8 too, and finds the range of each row of activations, not
      of the batch.

    Of a network that generates, `start` and `step` are converted one by one and then assembled.

    With a ``floor`` the graph is compared with the teacher on validation. Below the floor, further
    attempts are made in the same precision, each from the best so far. For ``int8`` these are a
    scale for each channel, other range methods, 1, 2, 4 and 8 of the most sensitive nodes out of
    int8, and quantization-aware distillation; for ``fp16`` more islands. The graph most similar to
    the teacher is kept, **also if none reaches the floor**: the floor says when more effort is
    worth it. The gates limit the same correlation on test, with bounds.

    Facts name what is rounded (``quantized`` or ``half``: nodes by operator) and what is not
    (``float``: node and reason), and with a floor what ``rungs.write_best_graph`` returns.
    """

    task: CodeName
    precision: Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weights"] = "fp32"
    """What the graph's weights and activations are held in."""
    runtime: Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"] = "onnxruntime"
    """What the graph is for. ``onnxruntime`` and ``openvino`` share one int8 graph, unsigned and
    asymmetric; ``tensorrt`` and ``tensorrt-rtx`` another, symmetric."""
    per_channel: bool = True
    """A scale for each output channel of a weight instead of one for the whole weight. ``int8`` and
    ``int8-dynamic`` only."""
    range_method: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    """How the range of an activation is found from the calibration. int8 only."""
    reduce_range: bool | None = None
    """Weights of 7 bits instead of 8, with which no kernel saturates. Left out: where the CPU that
    builds would saturate (x86 without VNNI), and only for ``onnxruntime`` and ``openvino``.
    ``int8`` and ``int8-dynamic`` only."""
    exclude: tuple[str, ...] = ()
    """Names of nodes that stay float. All precisions but ``fp32`` and ``bf16``."""
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
    def _has_this_precision(self) -> Self:
        if self.floor and self.precision not in CLIMBING:
            raise UnusedSettingError(
                f"floor climbs a ladder that precision {self.precision!r} does not have; remove "
                "floor, or use 'int8' or 'fp16'",
                "floor",
                "tuning_epochs",
                "tuning_learning_rate",
            )
        runtimes = RUNTIMES.get(self.precision, list(PLACEMENTS))
        if self.runtime not in runtimes:
            raise ValueError(
                f"runtime {self.runtime!r} has no precision {self.precision!r}, "
                f"{' and '.join(runtimes)} alone; use another precision, such as 'fp16'"
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

    @property
    def has_floor(self) -> bool:
        return self.precision in CLIMBING and self.floor > 0

    def deciding(self) -> Set[str]:
        sometimes = {"runtime", "reduce_range", "task", "floor", *TUNING, *INT8}
        climbing = {"task", "floor", *(TUNING if self.precision == "int8" else ())}
        always = super().deciding() - sometimes | DECIDING.get(self.precision, frozenset())
        return always | climbing if self.has_floor else always

    def reading(self) -> Set[str]:
        calibrated = {"calibration"} if self.precision in CLIMBING else set()
        return {"onnx", *calibrated, *({"student", "answers"} if self.has_floor else ())}

    def check_settings(self) -> None:
        if self.precision not in SEQUENCE_PRECISIONS and find_decoding(load_task(self.task)):
            raise UnfitSettingsError(explain_precision(self.precision))

    def run(
        self, out: Path, *, student: Weights, onnx: OnnxModel, calibration: Ranges, answers: Answers
    ) -> Facts:
        """Raises UnsupportedModelError when nothing can be quantized or half precision overflows in
        spite of all; StageError when the calibration belongs to another graph, or the floor is
        above what the student itself has, or that is not known."""
        report_progress("optimize", 0, 1, self.precision)
        if decoding := find_decoding(task := onnx.load_task()):
            write = partial(self.write_graph, calibration=calibration)
            facts = write_sequence_graphs(out, onnx, task, decoding, self.precision, write)
        elif self.has_floor:
            plan = self.make_plan(out, student, onnx.file(), calibration, answers)
            facts = write_best_graph(out, plan, self.floor, load_task(self.task), student, answers)
        else:
            facts = self.write_graph(onnx.file(), out / "model.onnx", calibration)
        report_progress("optimize", 1, 1, self.precision)
        passed_on = ("task", "graphs", "opset", "inputs", "outputs", "parameters")
        given = {name: onnx.facts[name] for name in passed_on}
        return {**given, "precision": self.precision, **facts}

    def write_graph(self, source: Path, target: Path, calibration: Ranges) -> Facts:
        match self.precision:
            case "int8":
                ranges = calibration.compute_ranges(self.range_method)
                return int8.write_int8_graph(source, target, ranges, self.spec)
            case "int8-dynamic":
                return int8_dynamic.write_dynamic_int8_graph(
                    source, target, self.per_channel, self.exclude, self.weight_bits
                )
            case "int8-weights":
                return int8_weights.write_int8_weights_graph(source, target, self.exclude)
            case "fp16":
                task, ranges = load_task(self.task), calibration.compute_ranges()
                return fp16.write_fp16_graph(source, target, ranges, task, self.exclude)
        shutil.copyfile(source, target)
        return {}

    @property
    def spec(self) -> QuantizationSpec:
        excluded, bits = dict.fromkeys(self.exclude, EXCLUDED), self.weight_bits
        where = PLACEMENTS[self.runtime]
        return QuantizationSpec(where, self.per_channel, self.range_method, excluded, bits)

    def make_plan(
        self, out: Path, student: Weights, source: Path, calibration: Ranges, answers: Answers
    ) -> Plan:
        task = load_task(self.task)
        if self.precision == "fp16":
            return Fp16Attempts(source, calibration.compute_ranges(), task, self.exclude)
        settings = self.tuning_epochs, self.tuning_learning_rate, self.seed, self.device
        tuning = Tuning(self.task, student, answers, out, *settings)
        tune = tuning.run if self.tuning_epochs else None
        return Int8Attempts(source, calibration, self.spec, task, tune)
