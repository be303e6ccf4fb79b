"""Quantization-aware distillation: a short training of a Q-DQ graph on the teacher's answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from safetensors.torch import load_file

from attar.engines.graphs.placement import LEVELS
from attar.engines.graphs.preparation import prepare_graph
from attar.engines.graphs.softmax import list_probabilities, remove_softmax
from attar.models.task import Kind, Task, load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts, open_scratch
from attar.stages.artifacts import Answers
from attar.stages.distill.loss_settings import (
    BinaryKd,
    Cosine,
    Kd,
    LabelPearson,
    LogitPearson,
    Loss,
    Mse,
)
from attar.stages.distill.objective import DistillationObjective
from attar.stages.learning.loop import RecordedViews, train_network
from attar.stages.learning.settings import TrainingSettings
from attar.stages.optimize.quantized import TRAINED, QuantizedNetwork


def distil_graph(
    source: Path,
    quantized: Path,
    target: Path,
    answers: Answers,
    settings: TrainingSettings,
    out: Path,
    levels: int = LEVELS[8],
) -> Facts:
    """Train the weights of ``source`` as ``quantized`` rounds them, and write the float graph.

    ``quantized`` is the Q-DQ graph of ``source``, ``levels`` the largest integer of its weights.
    Quantizing ``target``, which has the new weights, with the same ranges gives the same nodes and
    names. ``out`` is a folder of an interruptible stage. Raises StageError for an operator that
    cannot run in torch, and for a graph without weights.
    """
    model = prepare_graph(source)
    originals = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
    }
    graph = onnx.load(quantized)
    remove_softmax(
        graph, list_probabilities(load_task(settings.task))
    )  # a network that learns answers logits
    network = QuantizedNetwork(graph, originals, levels)
    if not network.parameters_of:
        readers = ", ".join(TRAINED)
        raise StageError(
            f"the graph cannot be tuned: none of its weights is read by {readers} itself; set "
            "tuning_epochs = 0"
        )
    objective = DistillationObjective(1.0, select_losses(load_task(settings.task)), answers)
    work = open_scratch(out) / "tuned"
    work.mkdir(exist_ok=True)
    views = RecordedViews(answers.facts["seed"], answers.facts["views"], answers.mixing)
    facts = train_network(
        settings, work, "tuning", objective, views, answers, module=lambda: network
    )
    network.load_state_dict(load_file(work / "weights.safetensors"))
    write_weights(model, network.export_weights(), target)
    return {name: facts[name] for name in ("history", "device")}


def select_losses(task: Task) -> list[Loss]:
    """Return the losses of each output, for which no labels are needed.

    They are KD and CORR itself for logits and for multilabel, the squared error for values, the
    cosine for embeddings.
    """
    found: list[Loss] = []
    for name, output in task.outputs.items():
        of: dict[Kind, list[Loss]] = {
            "logits": [Kd(output=name), LogitPearson(output=name)],
            "probabilities": [Kd(output=name), LogitPearson(output=name)],
            "multilabel": [BinaryKd(output=name), LabelPearson(output=name)],
            "values": [Mse(output=name)],
            "embedding": [Cosine(output=name)],
        }
        found += of[output.kind]
    return found


def write_weights(
    model: onnx.ModelProto, trained: Mapping[str, npt.NDArray[Any]], target: Path
) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in trained:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    np.ascontiguousarray(trained[tensor.name]), tensor.name
                )
            )
    onnx.save(model, target)
