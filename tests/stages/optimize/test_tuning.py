"""Quantization-aware distillation: the same Q-DQ graph with better weights, on stored answers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from attar.engines.graphs import int8
from attar.engines.graphs.placement import LEVELS
from attar.engines.runtimes import onnxruntime
from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.artifacts import Answers, OnnxModel, Ranges
from attar.stages.learning.settings import TrainingSettings
from attar.stages.optimize.fidelity import measure_correlation
from attar.stages.optimize.quantized import QuantizedNetwork
from attar.stages.optimize.tuning import distil_graph, select_losses
from tests.support.stages.training import LEARN_SETTINGS, InterruptError, interrupt_at
from tests.support.tasks import smoke

STEPS = 18  # an epoch: 1,197 images, 64 a step
LEARN_SETTINGS |= {"learning_rate": 1e-3, "schedule": "cosine", "weight_decay": 0, "precision": "fp32"}


def quantize(folder: Path, name: str, source: Path, ranges: Ranges, bits: int = 8) -> Path:
    read = json.loads((ranges.root / "ranges.json").read_text())
    int8.write_int8_graph(source, folder / name, read, int8.QuantizationSpec(per_channel=False, weight_bits=bits))
    return folder / name


def new(folder: Path, name: str) -> Path:
    out = folder / name / "out"
    out.mkdir(parents=True, exist_ok=True)
    return out


def form(file: Path) -> list[Any]:
    """All but the values: nodes with their names and attributes, tensors with their names, types and shapes."""
    graph = onnx.load(file).graph
    tensors = [(each.name, each.data_type, list(each.dims)) for each in graph.initializer]
    return [list(graph.node), tensors, list(graph.input), list(graph.output)]


@pytest.mark.parametrize("bits", LEVELS)
def test_tuning_gives_back_what_int8_lost(
    tmp_path: Path, hard: tuple[OnnxModel, Ranges], own_answers: Answers, bits: int
) -> None:
    model, ranges = hard
    task, floats = load_task(smoke.DIGITS), tmp_path / "tuned.onnx"
    before = quantize(tmp_path, "before.onnx", model.file(), ranges, bits)
    found = distil_graph(
        model.file(), before, floats, own_answers, TrainingSettings(**LEARN_SETTINGS), new(tmp_path, "slot"), LEVELS[bits]
    )
    after = quantize(tmp_path, "after.onnx", floats, ranges, bits)
    assert measure_correlation(model.file(), task, own_answers) > 0.9999
    lost, left = (1 - measure_correlation(file, task, own_answers) for file in (before, after))
    assert lost > 0.001
    assert left < 0.75 * lost
    assert [entry["epoch"] for entry in found["history"]] == [1, 2]
    assert found["device"] in ("cpu", "cuda")
    assert form(after) == form(before)
    same_answers(after, floats, task, LEVELS[bits])


def same_answers(quantized: Path, floats: Path, task: Any, levels: int) -> None:
    """What was shipped is what was trained: the module of the tuned weights answers as ONNX Runtime does."""
    originals = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(floats).graph.initializer}
    x = task.example(np.random.default_rng(0), batch=32)
    with torch.no_grad(), onnxruntime.open_session({"model": quantized}, 1, optimize=False) as predict:
        got = QuantizedNetwork(onnx.load(quantized), originals, levels)(torch.from_numpy(x["image"])).numpy()
        expected = smoke.floats(predict(x)["logits"])
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.9999


def test_an_interrupted_tuning_ends_in_the_same_bytes(
    tmp_path: Path, hard: tuple[OnnxModel, Ranges], own_answers: Answers
) -> None:
    model, ranges = hard
    before = quantize(tmp_path, "before.onnx", model.file(), ranges)
    settings = TrainingSettings(**LEARN_SETTINGS | {"device": "cpu"})
    whole = distil_graph(model.file(), before, tmp_path / "whole.onnx", own_answers, settings, new(tmp_path, "whole"))
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(STEPS + 5)):
        distil_graph(model.file(), before, tmp_path / "broken.onnx", own_answers, settings, new(tmp_path, "broken"))
    assert not (tmp_path / "broken.onnx").exists()
    seen: list[int] = []
    with listen_to_progress(lambda what, done, total, note: seen.append(done)):
        again = distil_graph(model.file(), before, tmp_path / "broken.onnx", own_answers, settings, new(tmp_path, "broken"))
    assert (seen[0], seen[-1]) == (STEPS + 1, 2 * STEPS)  # bounded, and gone on with
    assert again == whole
    assert (tmp_path / "broken.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_losses_for_every_output() -> None:
    found = [(loss.kind, loss.output) for loss in select_losses(smoke.Images())]
    assert found == [("kd", "logits"), ("logit_pearson", "logits"), ("mse", "map")]


def test_a_graph_without_weights_has_nothing_to_learn(tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["" : 20]> g (float[batch,3] x) => (float[batch,3] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "float.onnx")
    source, out = tmp_path / "float.onnx", new(tmp_path, "slot")
    with pytest.raises(StageError, match="Conv, Gemm, MatMul"):
        distil_graph(source, source, tmp_path / "tuned.onnx", smoke.UNASKED, TrainingSettings(**LEARN_SETTINGS), out)
