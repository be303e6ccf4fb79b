"""Saboteurs: each takes a stage's place, lets it do its work and spoils what came out, or lets it work on something else."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import field_validator
from safetensors import safe_open
from safetensors.numpy import save_file

from attar.bundle.manifest import Manifest
from attar.models.features import FEATURES
from attar.models.postprocess.known import OutputSteps
from attar.models.preprocess import Scale
from attar.models.preprocess.known import Steps
from attar.models.rows import Rows, map_shard
from attar.models.task import Arrays, Task
from attar.pipeline.core.stage import CodeName, DataFile, Facts
from attar.proof.artifacts import Evidence
from attar.stages.artifacts import Answers, Model, OnnxModel, Ranges, Weights
from attar.stages.build import Build
from attar.stages.calibrate import Calibrate
from attar.stages.distill.stage import Distill
from attar.stages.export.stage import Export, silence_exporters
from attar.stages.judge import Judge
from attar.stages.label.shards import Shard
from attar.stages.label.stage import Label
from attar.stages.measure.stage import Measure
from attar.stages.optimize.stage import Optimize
from attar.stages.package.proven import ProvenEngine
from attar.stages.package.stage import Package
from tests.support.tasks.smoke import write_shard
from tests.system.sabotage.graphs import spoil

if TYPE_CHECKING:
    import torch
    from torch import nn


class ViewsExchanged(Label):
    """The answers to two views of the training split are stored under each other's number."""

    def run(self, out: Path, *, teacher: Model) -> Facts:
        facts = super().run(out, teacher=teacher)
        for path in sorted(out.glob("train.0.*")):
            other = path.with_name(path.name.replace("train.0.", "train.1."))
            path.rename(out / "first")
            other.rename(path)
            (out / "first").rename(other)
        return facts


class RowsLate(Label):
    """Every answer to the test split stands one row late."""

    def run(self, out: Path, *, teacher: Model) -> Facts:
        facts = super().run(out, teacher=teacher)
        shard = Shard("test", None, 0)
        late = np.roll(Rows([map_shard(out / shard.name)["logits"]])[:], 1, axis=0)
        (out / shard.name).unlink()  # the name alone: the teacher's own answers are kept under another
        write_shard(out, shard, {"logits": late})
        return facts


class FeaturesLate(Label):
    """The features of every view stand one row late beside its answers."""

    def run(self, out: Path, *, teacher: Model) -> Facts:
        facts = super().run(out, teacher=teacher)
        for path in out.glob("train.*"):
            with safe_open(path, "np") as file:
                tensors, notes = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  # no mapping
            path.unlink()  # the name alone: the teacher's own features are kept under another
            late = {name: np.roll(array, 1, 0) for name, array in tensors.items() if name.endswith(FEATURES)}
            save_file(tensors | late, path, notes)
        return facts


class SpoiltStudent(Distill):
    """The student, then a function of its ``state_dict``."""

    spoil: CodeName

    def run(self, out: Path, *, teacher: Model, answers: Answers, start: Weights | None = None) -> Facts:
        from safetensors import torch

        from attar.pipeline.core import names

        facts = super().run(out, teacher=teacher, answers=answers, start=start)
        tensors = torch.load_file(out / "weights.safetensors")
        names.load_object(self.spoil)(tensors)
        torch.save_file(tensors, out / "weights.safetensors")
        return facts


def majority(tensors: dict[str, torch.Tensor]) -> None:
    """One class, whatever the image."""
    tensors["6.weight"].zero_()
    tensors["6.bias"][3] += 10


def nearly_majority(tensors: dict[str, torch.Tensor]) -> None:
    """One class, and a little of the image in the logits."""
    tensors["6.weight"] *= 0.01
    tensors["6.bias"][3] += 10


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    """One weight of 23,946."""
    tensors["2.0.weight"][0, 0, 0, 0] = float("nan")


class TrainingModeExport(Export):
    """Layers of one class are exported in training mode, as ``torch.onnx.export`` does that is asked to keep the modes."""

    layers: str

    def write_graph(self, task: Task, network: nn.Module, file: Path) -> None:
        import torch

        for layer in network.modules():
            if type(layer).__name__.startswith(self.layers):
                layer.train()
        with silence_exporters(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that statistics are updated in training mode, which is the fault
            torch.onnx.export(
                network, (example(task),), file, dynamo=False, opset_version=self.opset, verbose=False,
                training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
                input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )  # fmt: skip


def example(task: Task) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.asarray(task.example(np.random.default_rng(0), batch=2)["image"]))


class Frozen(Export):
    """The exporter is not told that the batch is dynamic."""

    def write_graph(self, task: Task, network: nn.Module, file: Path) -> None:
        import torch

        with silence_exporters():
            torch.onnx.export(
                network, (example(task),), file, dynamo=True, opset_version=self.opset, external_data=False, verbose=False,
                input_names=["image"], output_names=["logits"],
            )  # fmt: skip


_exported: dict[str, bytes] = {}
"""Graphs by the weights that they were exported from: these faults come after the exporter, which takes seconds."""


class ExportOnce(Export):
    """What was exported from the same weights before is written again."""

    def write_graph(self, task: Task, network: nn.Module, file: Path) -> None:
        digest = hashlib.sha256(repr((self.exporter, self.opset, network)).encode())
        for name, tensor in network.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        key = digest.hexdigest()
        if key not in _exported:
            super().write_graph(task, network, file)
            _exported[key] = file.read_bytes()
        file.write_bytes(_exported[key])


class SpoiltInExport(ExportOnce):
    """The exporter itself writes a wrong graph."""

    spoil: CodeName

    def write_graph(self, task: Task, network: nn.Module, file: Path) -> None:
        super().write_graph(task, network, file)
        spoil(file, self.spoil)


class SpoiltAfterExport(ExportOnce):
    """Something changes the graph when the export is over and was proven."""

    spoil: CodeName

    def run(self, out: Path, *, weights: Model) -> Facts:
        facts = super().run(out, weights=weights)
        spoil(out / "model.onnx", self.spoil)
        return facts


class Narrowed(Calibrate):
    """One activation is said to reach only so far of what it does."""

    share: float

    def run(self, out: Path, *, onnx: OnnxModel) -> Facts:
        facts = super().run(out, onnx=onnx)
        ranges = json.loads((out / "ranges.json").read_text())
        ranges["relu_1"] = [bound * self.share for bound in ranges["relu_1"]]
        (out / "ranges.json").write_text(json.dumps(ranges))
        return facts


class SpoiltModel(Optimize):
    spoil: CodeName

    def run(self, out: Path, *, student: Weights, onnx: OnnxModel, calibration: Ranges, answers: Answers) -> Facts:
        facts = super().run(out, student=student, onnx=onnx, calibration=calibration, answers=answers)
        spoil(out / "model.onnx", self.spoil)
        return facts


class Dynamic(Optimize):
    """int8 with ranges that are found anew for every input, as the shortest recipe on the web has it."""

    def write_graph(self, source: Path, target: Path, calibration: Ranges) -> dict[str, Any]:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        return {}


class SpoiltEngine(Build):
    spoil: CodeName

    def run(self, out: Path, *, model: OnnxModel) -> Facts:
        facts = super().run(out, model=model)
        spoil(out / "model.onnx", self.spoil)
        return facts


class OtherEngine(Build):
    """The engine is overwritten by another one."""

    other: DataFile

    def run(self, out: Path, *, model: OnnxModel) -> Facts:
        facts = super().run(out, model=model)
        shutil.copyfile(self.other, out / "model.onnx")
        return facts


class Unoptimised(Build):
    """The graph is shipped as it is: nothing is fused, so that int8 is pretended around fp32 kernels."""

    def run(self, out: Path, *, model: OnnxModel) -> Facts:
        facts = super().run(out, model=model)
        shutil.copyfile(model.file(), out / "model.onnx")
        return facts


class OtherProvider(Build):
    """The facts promise a provider that the engine was not built for."""

    def run(self, out: Path, *, model: OnnxModel) -> Facts:
        return {**super().run(out, model=model), "provider": "AzureExecutionProvider"}


class LateLabels(Measure):
    """Measures on a test split whose labels stand one row late."""

    @field_validator("task")
    @classmethod
    def _other(cls, task: str) -> str:
        return "task.py:LateCamera"


def as_measure(run: Any) -> Any:
    """``Measure.run`` says what the slot needs; a saboteur that only passes it on need not."""
    return wraps(Measure.run)(run)


class OtherLineage(Measure):
    """The evidence is of another engine than the one that is packaged."""

    @as_measure
    def run(self, out: Path, **inputs: Any) -> Facts:
        facts = super().run(out, **inputs)
        measured = {**facts["lineage"]["engine"], "digest": "0" * 64}
        return {**facts, "lineage": {**facts["lineage"], "engine": measured}}


class Lenient(Judge):
    """Says ``passed``, whatever the gates say."""

    def run(self, out: Path, *, evidence: Evidence) -> Facts:
        return {**super().run(out, evidence=evidence), "verdict": "passed", "first_broken": None, "margin": None}


class Promiseless(Judge):
    """A recipe without a section of gates."""

    def run(self, out: Path, *, evidence: Evidence) -> Facts:
        return Judge().run(out, evidence=evidence)


class OtherPreprocessing(Package):
    """The bundle is told to divide pixels by 16, as the original digits have it, and not by 255."""

    def _manifest(self, task: Task, steps: tuple[Steps, OutputSteps], golden: Arrays, packed: Sequence[ProvenEngine]) -> Manifest:
        inputs: Steps = {"image": [Scale(by=1 / 16), *steps[0]["image"][1:]]}
        return super()._manifest(task, (inputs, steps[1]), golden, packed)
