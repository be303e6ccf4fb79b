"""Stored features: which of the teacher's layers are stored beside its answers, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from attar.models.features import answer_with_features, name_features
from attar.models.generation import find_decoding
from attar.models.task import Array, Arrays, Output, Predict, Predictor, SplitName, Task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import Model, Weights
from attar.stages.label.shards import Shard, ShardBuilder

BYTES = 2
"""Bytes of a number: features are float16, as the answers to views are."""


@dataclass(frozen=True)
class FeatureLabels:
    """The features that are stored of every view; clean splits have none."""

    widths: Mapping[str, int] = field(default_factory=dict)
    """Numbers of a row, by layer."""

    def make_builders(self, shard: Shard) -> list[ShardBuilder]:
        """Return a builder of each layer's features."""
        return [
            ShardBuilder(name_features(layer), Output(("batch", width), kind="values"), shard.dtype)
            for layer, width in self.list_widths(shard).items()
        ]

    def list_widths(self, shard: Shard) -> Mapping[str, int]:
        return {} if shard.view is None else self.widths

    def describe(self, shard: Shard) -> str:
        """Return what decides the features of a shard; nothing if it has none."""
        layers = list(self.list_widths(shard))
        return f" {layers}" if layers else ""

    def answer(self, task: Task, graphs: Mapping[str, Predict], inputs: Arrays) -> dict[str, Array]:
        """Return the teacher's answers and its features."""
        return answer_with_features(task, graphs, inputs, list(self.widths))

    def build_facts(self, samples: Mapping[SplitName, int], views: int) -> Facts:
        """Return the facts of ``Answers`` about features; none if there are no features."""
        if not self.widths:
            return {}
        learned = sum(samples.get(name, 0) for name in ("train", "transfer"))
        total = BYTES * sum(self.widths.values()) * learned * views
        return {"features": dict(self.widths), "feature_bytes": total}


def check_features(task: Task, teacher: Model, layers: Sequence[str]) -> None:
    """Raises StageError for a teacher that has no layers, and for one that generates."""
    if not layers:
        return
    if not isinstance(teacher, Weights):
        raise StageError(
            f"features = {list(layers)} names layers of a network in PyTorch, and of this teacher "
            "only inputs and outputs are known; leave features out of [answers], and use losses of "
            "answers (kd, mse, dist, ...)"
        )
    if find_decoding(task):
        raise StageError(
            f"features = {list(layers)} are one row a sample, and {type(task).__name__} has an "
            "output of tokens; leave features out of [answers]"
        )


def measure_features(task: Task, predict: Predictor, layers: Sequence[str]) -> FeatureLabels:
    """Ask the teacher once, for two random samples, how wide its features are.

    Raises StageError for a layer whose features cannot be stored.
    """
    if not layers:
        return FeatureLabels()
    inputs = task.example(np.random.default_rng(0), batch=2)
    answer = answer_with_features(task, predict.graphs, inputs, layers)
    return FeatureLabels({layer: answer[name_features(layer)].shape[1] for layer in layers})
