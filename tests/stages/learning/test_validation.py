"""Validation: what is compared with the teacher when samples differ in length from chunk to chunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from attar.models.rows import Rows, map_shard
from attar.models.task import Arrays, InMemory, Output, Split, SplitName, Task, Tensor
from attar.pipeline.core.errors import StageError
from attar.proof.estimates.metrics import compare_outputs
from attar.stages.label.shards import ShardBuilder, save_shard
from attar.stages.learning.validation import Validation
from attar.stages.teach.stage import Teach
from tests.support.stages.training import make_out
from tests.support.tasks.ring_task import Ring

IGNORED = -1


class IgnoredPositions(Task):
    """Classes of positions, of which some have none. Only its declarations are read."""

    inputs = {"x": Tensor("float32", ("batch", "length"))}
    outputs = {"y": Output(("batch", "length", 3), target="label", ignore=IGNORED)}
    ranges = {"batch": (1, 8), "length": (1, 8)}

    def data(self) -> list[str]:
        return ["drawn"]

    def split(self, name: SplitName) -> Split:
        return InMemory({"x": np.zeros((5, 4), np.float32)}, {"label": np.zeros((5, 4), np.int64)})

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["y"]), 1))


class NoNumber(Ring):
    """Its score is 0/0, as the correlation of answers is that are all alike."""

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        return float("nan")


def test_a_score_that_is_no_number_ends_the_training_and_names_the_epoch(tmp_path: Path) -> None:
    """As the first of a training with patience it would stay the best: no number is larger."""
    network = "tests.support.tasks.ring_task:layers"
    stage = Teach(task=f"{__name__}:NoNumber", network=network, epochs=3, patience=2)
    with pytest.raises(StageError, match=r"NoNumber\.aggregate returned nan .*after epoch 1; let it return a finite"):
        stage.run(make_out(tmp_path))


def test_positions_that_do_not_count_are_left_out_whatever_the_length_of_a_chunk(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shapes = [(2, 4), (3, 2)]
    taught, made = ([generator.normal(0, 2, (*shape, 3)).astype(np.float32) for shape in shapes] for _ in range(2))
    labels = [generator.integers(IGNORED, 3, shape) for shape in shapes]
    builder = ShardBuilder("y", IgnoredPositions.outputs["y"], np.float32)
    for chunk in taught:
        builder.add(chunk)
    save_shard(tmp_path / "shard", [builder])
    teacher = {"y": Rows([map_shard(tmp_path / "shard")["y"]])}
    parts = [({"y": output}, {"label": label}) for output, label in zip(made, labels, strict=True)]
    known = np.concatenate([label.ravel() for label in labels]) != IGNORED
    rows = [np.concatenate([chunk.reshape(-1, 3) for chunk in side])[known] for side in (taught, made)]
    expected = compare_outputs("logits", rows[0], rows[1]).numbers
    found = Validation(IgnoredPositions()).compare_with_teacher(teacher, parts)
    assert 0 < known.sum() < len(known)
    assert found == pytest.approx({name: expected[name] for name in ("correlation", "kdl")}, rel=1e-5)
