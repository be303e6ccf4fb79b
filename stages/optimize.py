"""Optimize: precision is baked into the graph, so that every runtime computes the same numbers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from attar.models.task import load_task
from attar.pipeline.errors import StageError
from attar.pipeline.progress import advance
from attar.pipeline.stage import CodeName, Device, Facts, Stage, scratch
from attar.stages.artifacts import Answers, OnnxModel, Ranges, Weights
from attar.stages.learn import Learn
from attar.stages.precision import dynamic, fp32, int8
from attar.stages.precision.fidelity import correlation
from attar.stages.precision.ladder import Rung, best, climb

TUNING_BATCH = 64


class Optimize(Stage[OnnxModel]):
    """``fp32`` keeps the graph; ``int8`` puts Q-DQ pairs around what has int8 kernels, from the calibration's ranges;
    ``int8-dynamic`` stores the weights of matrix products in int8, and finds each batch's ranges when it is asked.

    With a ``floor`` the graph is looked at on validation, and where it is below, a ladder is climbed: what was asked for first,
    quantization-aware distillation last. All rungs are of the precision that was asked for. The most faithful one is kept, **also
    when none reaches the floor**: the floor says when more effort is worth it, and is compared with an estimate from a split that
    the effort was chosen on; what is promised are the gates, which judge the same correlation on test, with bounds. Facts tell:
    ``floor``, ``reached``, ``rung`` (the one that is kept), ``student`` (its correlation in float) and ``rungs``, each with its
    ``correlation`` and what else was found.
    """

    follows: ClassVar[tuple[str, ...]] = ("attar.stages.labelling.rows:mapped", "attar.stages.labelling.rows:Rows")

    task: CodeName
    precision: Literal["fp32", "int8", "int8-dynamic"] = "fp32"
    """What the graph's weights and activations are held in."""
    per_channel: bool = True
    """A scale for each output channel of a weight instead of one for the whole weight. Both int8 only."""
    exclude: tuple[str, ...] = ()
    """Names of nodes that stay float. Both int8 only."""
    floor: float = Field(0.0, ge=0, lt=1)
    """The correlation with the teacher on validation below which the ladder is climbed; 0: never. int8 only."""
    tuning_epochs: int = Field(2, ge=0)
    """Of the ladder's last rung, quantization-aware distillation on the stored answers; 0: without it."""
    tuning_learning_rate: float = Field(1e-3, gt=0)
    """The largest of a cosine."""
    seed: int = Field(0, ge=0)
    """Of the order in which the tuning reads its samples."""
    device: Device = "auto"

    @model_validator(mode="after")
    def _floor_has_a_ladder(self) -> Self:
        if self.floor and self.precision == "int8-dynamic":
            raise ValueError("floor climbs a ladder that precision 'int8-dynamic' does not have; remove floor, or use 'int8'")
        return self

    @classmethod
    def meaningless(cls, settings: Mapping[str, Any]) -> Set[str]:
        return set() if settings.get("precision") == "int8" else {"floor", "tuning_epochs", "tuning_learning_rate"}

    @property
    def climbs(self) -> bool:
        return self.precision == "int8" and self.floor > 0

    def deciding(self) -> Set[str]:
        only = {"task", "floor", "tuning_epochs", "tuning_learning_rate", "seed"}
        return super().deciding() - (set() if self.climbs else only)

    def reading(self) -> Set[str]:
        calibrated = set() if self.precision != "int8-dynamic" else {"calibration"}
        return super().reading() - calibrated - (set() if self.climbs else {"student", "answers"})

    def run(self, out: Path, *, student: Weights, onnx: OnnxModel, calibration: Ranges, answers: Answers) -> Facts:
        """Raises StageError when nothing can be quantized, the calibration belongs to another graph, or the floor is above what
        the student itself has."""
        advance("optimize", 0, 1, self.precision)
        if self.climbs:
            made = self.climb(out, student, onnx, calibration, answers)
        else:
            made = self.write(onnx.file(), out / "model.onnx", calibration)
        advance("optimize", 1, 1, self.precision)
        passed_on = ("task", "graphs", "opset", "inputs", "outputs", "parameters")
        return {name: onnx.facts[name] for name in passed_on} | {"precision": self.precision} | made

    def write(self, source: Path, target: Path, calibration: Ranges) -> dict[str, Any]:
        if self.precision == "fp32":
            fp32.keep(source, target)
            return {}
        if self.precision == "int8-dynamic":
            return dynamic.quantize(source, target, self.per_channel, self.exclude)
        return int8.quantize(source, target, calibration.of(), self.per_channel, self.exclude)

    def climb(self, out: Path, student: Weights, onnx: OnnxModel, calibration: Ranges, answers: Answers) -> dict[str, Any]:
        """Rung by rung; ``model.onnx`` is the best of them."""
        of_student = student.facts["correlation"]
        if of_student < self.floor:
            raise StageError(
                f"floor = {self.floor}, but on validation the student itself has a correlation of {of_student} with the teacher: "
                "what it lacks is not precision; lower the floor, or distil a better student"
            )
        task = load_task(self.task)
        rungs = self.rungs(out, student, onnx.file(), calibration, answers)
        tried = climb(rungs, lambda file: correlation(file, task, answers), self.floor, scratch(out))
        kept = best(tried)
        shutil.copyfile(kept.file, out / "model.onnx")
        return kept.facts | {
            "floor": self.floor,
            "reached": kept.correlation >= self.floor,
            "rung": kept.name,
            "student": of_student,
            "rungs": [{"rung": each.name, "correlation": each.correlation, **each.facts} for each in tried],
        }

    def rungs(self, out: Path, student: Weights, source: Path, calibration: Ranges, answers: Answers) -> Iterator[Rung]:
        """What was asked for, then the last resort."""
        first = Rung("per-channel" if self.per_channel else "per-tensor", lambda file: self.write(source, file, calibration))
        yield first

        def tuned(file: Path) -> dict[str, Any]:
            from attar.stages.distillation.tuning import tune

            floats, quantized = scratch(out) / "tuned.onnx", scratch(out) / f"{first.name}.onnx"
            found = tune(source, quantized, floats, answers, self.learning(student), out)
            return self.write(floats, file, calibration) | {"tuning": found}

        if self.tuning_epochs:
            yield Rung("distillation", tuned)

    def learning(self, student: Weights) -> Learn:
        """In fp32, because what is rounded to int8 must not be rounded before; nothing pulls the weights to zero."""
        return Learn(
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
