"""What quantization-aware distillation gives back: int8 students of digits before and after it, on
test images that it never saw.

``python -m benchmarks.tuning`` takes minutes on one core. Three students each in six cases: one
scale a weight or one a channel, and weights as they were trained or stretched. Stretched, the
network computes the same in float, but the channels between two convolutions differ up to 100- or
900-fold, as in networks that quantize badly (Nagel et al. 2019, arXiv:1906.04721, fig. 2).
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from attar.engines.graphs.int8 import QuantizationSpec, write_int8_graph
from attar.engines.runtimes import onnxruntime
from attar.models import views
from attar.models.task import load_task
from attar.proof.estimates.metrics import compare_outputs
from attar.stages.artifacts import Answers, OnnxModel, Ranges, Weights
from attar.stages.calibrate import Calibrate
from attar.stages.distill.stage import Distill
from attar.stages.export.stage import Export
from attar.stages.label.stage import Label
from attar.stages.learning.settings import TrainingSettings
from attar.stages.optimize.rungs import Tuning
from attar.stages.optimize.tuning import distil_graph
from attar.stages.teach.stage import Teach
from benchmarks.measuring import make_artifact

TASK = "attar.models.tasks.digits:Digits"
RESIDUAL = "attar.models.networks.residual:residual"
TRAINED: dict[str, Any] = {"task": TASK, "network": RESIDUAL, "batch": 64}
SEEDS = (0, 1, 2)
EPOCHS, LEARNING_RATE = 2, 1e-3
FORMS = {"as trained": 1.0, "stretched 100-fold": 10.0, "stretched 900-fold": 30.0}
"""The most that a channel is stretched; another one is shrunk as much."""
Measured = dict[str, tuple[float, float]]
"""For each graph its accuracy and its CORR with the teacher."""


def stretch_graph(file: Path, most: float, seed: int = 0) -> None:
    """Stretch what lies between a convolution, a ReLU and the only convolution that reads it: each
    channel times a factor, and over it again."""
    model = onnx.load(file)
    makers = {node.output[0]: node for node in model.graph.node}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    random = np.random.default_rng(seed)
    for second in model.graph.node:
        relu = makers.get(second.input[0]) if second.op_type == "Conv" else None
        first = makers.get(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
        alone = (
            relu is not None and len(readers[relu.input[0]]) == len(readers[relu.output[0]]) == 1
        )
        if first is not None and first.op_type == "Conv" and alone:
            stretch_channels(model, first, second, most, random)
    onnx.save(model, file)


def stretch_channels(
    model: onnx.ModelProto,
    first: onnx.NodeProto,
    second: onnx.NodeProto,
    most: float,
    random: np.random.Generator,
) -> None:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = onnx.numpy_helper.to_array(tensors[first.input[1]])  # (C, ...)
    factors = random.permutation(np.geomspace(1 / most, most, len(weight)).astype(np.float32))
    changed: dict[str, npt.NDArray[Any]] = {
        first.input[1]: weight * factors.reshape(-1, *[1] * (weight.ndim - 1))
    }
    if len(first.input) > 2:
        changed[first.input[2]] = onnx.numpy_helper.to_array(tensors[first.input[2]]) * factors
    behind = onnx.numpy_helper.to_array(tensors[second.input[1]])  # (D, C, ...)
    changed[second.input[1]] = behind / factors.reshape(1, -1, *[1] * (behind.ndim - 2))
    for name, values in changed.items():
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(values, name))


def measure_graph(file: Path, answers: Answers) -> tuple[float, float]:
    """Return accuracy and CORR on the test split."""
    task = load_task(TASK)
    with onnxruntime.open_session({"model": file}, 1) as predict:
        seen = list(views.iterate_clean(task, task.split("test")))
        logits = np.concatenate([predict(each.inputs)["logits"] for each in seen])
    score = task.aggregate(
        task.score(
            {"logits": logits}, {"label": np.concatenate([each.targets["label"] for each in seen])}
        )
    )
    return score, float(
        compare_outputs("logits", answers.read_split("test")["logits"], logits).numbers[
            "correlation"
        ]
        or 0
    )


def measure_student(
    folder: Path, seed: int, teacher: Weights, answers: Answers
) -> Mapping[str, Measured]:
    """Make one student, and measure for each case its graphs in float, in int8 and tuned."""
    settings = Distill(**TRAINED, options={"width": 5}, epochs=12, learning_rate=0.02, seed=seed)
    student = make_artifact(Weights, folder / "student", settings, teacher=teacher, answers=answers)
    found: dict[str, Measured] = {}
    for form, most in FORMS.items():
        graph = make_artifact(
            OnnxModel, folder / form / "onnx", Export(exporter="torchscript"), weights=student
        )
        stretch_graph(graph.file(), most, seed)
        ranges = make_artifact(Ranges, folder / form / "ranges", Calibrate(task=TASK), onnx=graph)
        learning = Tuning(
            TASK, student, answers, folder, EPOCHS, LEARNING_RATE, seed, "auto"
        ).make_settings()
        for channels in (True, False):
            name = f"{form}, {'a scale a channel' if channels else 'a scale a weight'}"
            files = {"float": graph.file()} | tune_graph(
                folder / name, graph.file(), ranges, channels, answers, learning
            )
            found[name] = {each: measure_graph(file, answers) for each, file in files.items()}
    return found


def tune_graph(
    folder: Path,
    source: Path,
    ranges: Ranges,
    channels: bool,
    answers: Answers,
    learning: TrainingSettings,
) -> dict[str, Path]:
    """Return the graph in int8 before and after it is trained: that rung of the ladder alone."""
    (folder / "out").mkdir(parents=True)
    files, form = (
        {name: folder / f"{name}.onnx" for name in ("int8", "tuned")},
        QuantizationSpec(per_channel=channels),
    )
    write_int8_graph(source, files["int8"], ranges.compute_ranges(), form)
    distil_graph(source, files["int8"], folder / "float.onnx", answers, learning, folder / "out")
    write_int8_graph(folder / "float.onnx", files["tuned"], ranges.compute_ranges(), form)
    return files


def main() -> None:
    torch.set_num_threads(1)
    version = onnxruntime.OnnxRuntime().get_version()
    print(
        f"{platform.machine()}, torch {torch.__version__}, ONNX Runtime {version}, "
        f"{datetime.now(UTC):%d %B %Y}"
    )
    print(
        f"{len(SEEDS)} students, {EPOCHS} epochs of tuning, 300 test images; accuracy and CORR "
        "with the teacher, means\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        taught = Teach(**TRAINED, options={"width": 12}, epochs=6, learning_rate=0.01)
        teacher = make_artifact(Weights, folder / "teacher", taught)
        answers = make_artifact(
            Answers, folder / "answers", Label(task=TASK, views=4), teacher=teacher
        )
        students = [measure_student(folder / str(seed), seed, teacher, answers) for seed in SEEDS]
    print("| case | float | int8 | tuned int8 |\n| --- | --- | --- | --- |")
    for case in students[0]:
        cells = []
        for graph in ("float", "int8", "tuned"):
            score, correlation = (
                statistics.mean(each[case][graph][place] for each in students) for place in (0, 1)
            )
            cells.append(f"{score:.4f}, {correlation:.4f}")
        print(f"| {case} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
