"""Labelling with workers: the same answers, how long the teacher waited, and what goes wrong in a worker is one message."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from attar.models import views
from attar.models.task import Arrays, Batch, InMemory, Output, Split, SplitName, Task, Tensor, hits
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.observation import collect_observations
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.artifacts import Weights
from attar.stages.label.shards import ROWS_PER_SHARD
from attar.stages.label.stage import Label
from tests.support.stages.labelling import label_with
from tests.support.stages.training import make_out
from tests.support.tasks.smoke import weights

SAMPLES = ROWS_PER_SHARD + 2 * views.CHUNK + 10
HERE = "tests.stages.label.test_labelling"

pytestmark = [
    # Python warns of a fork beside the threads of torch, which a worker does not use.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # of a machine with fewer cores
]


class MovedPoints(Task):
    """Numbers for two shards; each is moved a little in a view."""

    inputs = {"x": Tensor("float32", ("batch", 2))}
    outputs = {"y": Output(("batch", 3), kind="logits", target="label")}
    ranges = {"batch": (1, 512)}

    def data(self) -> list[str]:
        return ["drawn"]

    def split(self, name: SplitName) -> Split:
        count = SAMPLES if name == "train" else 20
        x = np.random.default_rng(len(name)).standard_normal((count, 2)).astype(np.float32)
        return InMemory({"x": x}, {"label": np.arange(count) % 3})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        return {"x": inputs["x"] + generator.normal(0, 0.1, inputs["x"].shape).astype(np.float32)}

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["y"], targets["label"])


class BrokenPoints(MovedPoints):
    """One sample cannot be read."""

    how = "raises"

    def split(self, name: SplitName) -> Split:
        whole = super().split(name)
        assert isinstance(whole, InMemory)
        return Breaking(whole.inputs, whole.targets) if name == "train" else whole


class Breaking(InMemory):
    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        is_labelled = len(indices) in (1, views.CHUNK)  # the checks of a task read other numbers of samples
        if is_labelled and 4711 in indices and BrokenPoints.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if is_labelled and 4711 in indices:
            raise ValueError("cut off after 100 bytes")
        return super().take(indices)

    def name_sample(self, index: int) -> str:
        return f"images/{index}.jpg"


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 3)


@pytest.fixture
def teacher(tmp_path: Path) -> Weights:
    return weights(tmp_path / "teacher", f"{HERE}:linear", f"{HERE}:MovedPoints")


def test_answers_are_the_same_for_any_number_of_workers(tmp_path: Path, teacher: Weights) -> None:
    content = []
    for workers in (0, 1, 2):
        answers = label_with(teacher, make_out(tmp_path, f"with {workers}"), workers=workers)
        files = {path.name: path.read_bytes() for path in sorted(answers.root.iterdir())}
        content.append((answers.facts, files))
    assert content[0] == content[1] == content[2]
    assert len(content[0][1]) == 2 * 2 + 2  # of each view two shards, and the clean splits


def test_labelling_tells_how_long_it_waits(tmp_path: Path, teacher: Weights) -> None:
    notes: list[str] = []
    with listen_to_progress(lambda what, done, total, note: notes.append(note)), collect_observations() as observed:
        label_with(teacher, make_out(tmp_path))
    assert "waiting" in notes[-1]
    assert notes[-1].endswith(" %")
    assert observed["workers"] == 0  # such samples are prepared in no time
    assert 0 < observed["waiting"] < 1
    with collect_observations() as again:
        label_with(teacher, make_out(tmp_path, "beside"), workers=1)
    assert again["workers"] == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_named(tmp_path: Path, teacher: Weights, workers: int) -> None:
    with pytest.raises(StageError, match=r"^sample 4711 of train \(images/4711.jpg\): .*ValueError: cut off"):
        label_with(teacher, make_out(tmp_path), task=f"{HERE}:BrokenPoints", workers=workers)


def test_a_worker_that_is_killed_is_told_with_its_samples(
    tmp_path: Path, teacher: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BrokenPoints, "how", "killed")
    with pytest.raises(StageError, match=r"(?s)worker \(pid.* 512 samples of train, from \d+ \(images/.*workers = 0"):
        label_with(teacher, make_out(tmp_path), task=f"{HERE}:BrokenPoints", workers=1)


def test_workers_do_not_count_in_the_key() -> None:
    assert "workers" not in Label(task=f"{HERE}:MovedPoints").deciding()
