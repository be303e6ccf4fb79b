"""Asking: what was answered before is not asked again, whatever happened in between; what changed is."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from attar.models import views
from attar.models.task import (
    Array,
    Arrays,
    Batch,
    InMemory,
    Output,
    Predict,
    Split,
    SplitName,
    Task,
    Tensor,
    hits,
    load_task,
)
from attar.pipeline.core.errors import StageError
from attar.pipeline.store.file_cache import open_file_cache
from attar.stages.artifacts import Weights
from attar.stages.label.shards import ROWS_PER_SHARD, Shard
from attar.stages.label.stage import Label, link_file
from tests.support.stages.labelling import label_with, predict_view
from tests.support.stages.training import make_out
from tests.support.tasks.smoke import DIGITS, weights


class Noting(InMemory):
    """Notes how many rows are read."""

    read: ClassVar[list[int]] = []

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        self.read.append(len(indices))
        return super().take(indices)


class ShardedPoints(Task):
    """Enough numbers for three shards; each is moved a little in a view."""

    inputs = {"x": Tensor("float32", ("batch", 2))}
    outputs = {"y": Output(("batch", 3), kind="logits", target="label")}
    ranges = {"batch": (1, 512)}
    samples: ClassVar[int] = 2 * ROWS_PER_SHARD + 10
    changed: ClassVar[tuple[int, ...]] = ()

    def data(self) -> list[str]:
        return [f"{self.samples} {self.changed}"]

    def split(self, name: SplitName) -> Split:
        count = self.samples if name == "train" else 20
        x = np.random.default_rng(len(name)).standard_normal((count, 2)).astype(np.float32)
        x[list(self.changed) if name == "train" else []] += 1
        return Noting({"x": x}, {"label": np.arange(count) % 3})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        return {"x": inputs["x"] + generator.normal(0, 0.1, inputs["x"].shape).astype(np.float32)}

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["y"], targets["label"])


class Counting(nn.Module):
    """Notes how many rows it was asked for."""

    asked: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(x))
        return self.layer(x)  # type: ignore[no-any-return]  # nn.Module calls are untyped


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    monkeypatch.setattr(Counting, "asked", [])
    for name in ("samples", "changed"):
        monkeypatch.setattr(ShardedPoints, name, getattr(ShardedPoints, name))  # a test may change them
    return weights(
        tmp_path / "teacher",
        "tests.stages.label.test_shard_labeller:Counting",
        "tests.stages.label.test_shard_labeller:ShardedPoints",
    )


def again(teacher: Weights, out: Path, **settings: Any) -> int:
    """How many rows the teacher is asked for when what was kept is there, and nothing else."""
    for folder in (out, out.parent / "scratch"):
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir()
    Counting.asked.clear()
    label_with(teacher, out, **settings)
    return sum(Counting.asked)


def test_more_views_ask_for_the_new_ones_alone(tmp_path: Path, counting: Weights) -> None:
    out = make_out(tmp_path)
    train = 2 * ROWS_PER_SHARD + 10
    assert again(counting, out, views=1) == train + 40
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert again(counting, out, views=1) == 0
    assert again(counting, out, views=3) == 2 * train
    assert {name: (out / name).read_bytes() for name in first} == first
    assert again(counting, out, views=2) == 0
    assert again(counting, out, views=1, view_seed=7) == train


def test_more_views_read_no_sample_of_the_older_ones(tmp_path: Path, counting: Weights) -> None:
    out = make_out(tmp_path)
    again(counting, out, views=2)
    Noting.read.clear()
    train = 2 * ROWS_PER_SHARD + 10
    assert again(counting, out, views=3) == train
    assert train <= sum(Noting.read) < train + 3 * views.CHUNK  # the checks of the task read some, too, and a chunk is timed


def test_a_batch_of_its_own(tmp_path: Path, counting: Weights) -> None:
    """It changes neither the key nor, but for rounding, what is stored; what is stored is not asked for again."""
    whole = label_with(counting, make_out(tmp_path, "whole"), views=1)
    Counting.asked.clear()
    out = make_out(tmp_path)
    answers = label_with(counting, out, views=1, batch=300)
    assert set(Counting.asked) == {300, views.CHUNK - 300, 10, 20}
    for split, view in (("train", 0), ("test", None)):
        kept, expected = (each.open_rows(split, view)["y"][:] for each in (answers, whole))
        np.testing.assert_allclose(kept, expected, rtol=1e-3, atol=1e-6)
    assert again(counting, out, views=1, batch=7) == 0
    assert "batch" not in Label(task=DIGITS).deciding()
    with pytest.raises(ValidationError, match="less than or equal to 512"):
        Label(task=DIGITS, batch=513)


class ForgetfulPoints(ShardedPoints):
    """Answers one sample too few."""

    def answer(self, graphs: Mapping[str, Predict], inputs: Arrays) -> dict[str, Array]:
        return {name: array[1:] for name, array in graphs["model"](inputs).items()}


def test_every_sample_needs_its_own_row(tmp_path: Path, counting: Weights) -> None:
    with pytest.raises(StageError, match=r"'y' has 127 .*128 samples"):
        label_with(counting, make_out(tmp_path), views=1, task="tests.stages.label.test_shard_labeller:ForgetfulPoints")


class Versioned(ShardedPoints):
    """Its own way to answer, which may look at what ``data`` names."""

    version: ClassVar[str] = "1"

    def data(self) -> list[str]:
        return [self.version]

    def answer(self, graphs: Mapping[str, Predict], inputs: Arrays) -> dict[str, Array]:
        return {name: np.asarray(array, np.float32) * np.float32(self.version) for name, array in graphs["model"](inputs).items()}


def test_a_task_that_answers_in_its_own_way_is_asked_again_when_its_data_change(
    tmp_path: Path, counting: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make_out(tmp_path)
    whole = 2 * ROWS_PER_SHARD + 10 + 40
    assert again(counting, out, views=1, task="tests.stages.label.test_shard_labeller:Versioned") == whole
    assert again(counting, out, views=1, task="tests.stages.label.test_shard_labeller:Versioned") == 0
    monkeypatch.setattr(Versioned, "version", "2")
    assert again(counting, out, views=1, task="tests.stages.label.test_shard_labeller:Versioned") == whole


def test_another_number_of_largest_logits_is_asked_anew(tmp_path: Path, counting: Weights) -> None:
    out = make_out(tmp_path)
    again(counting, out, views=1)
    assert again(counting, out, views=1, top=2) == 2 * ROWS_PER_SHARD + 10  # the clean ones are whole in both
    assert again(counting, out, views=1) == 0


def test_a_changed_sample_makes_its_shard_anew_and_no_other(tmp_path: Path, counting: Weights) -> None:
    out = make_out(tmp_path)
    again(counting, out)
    for changed in (0, 3 * views.CHUNK):  # in the first chunk of a shard, and in another
        ShardedPoints.changed = (*ShardedPoints.changed, ROWS_PER_SHARD + changed)
        assert again(counting, out) == 2 * ROWS_PER_SHARD  # in both views


def test_more_samples_ask_for_the_new_ones_alone(tmp_path: Path, counting: Weights) -> None:
    out = make_out(tmp_path)
    ShardedPoints.samples = 2 * ROWS_PER_SHARD
    again(counting, out, views=1)
    ShardedPoints.samples = 2 * ROWS_PER_SHARD + 30
    assert again(counting, out, views=1) == 30


def test_a_damaged_shard_is_made_again(tmp_path: Path, counting: Weights) -> None:
    out = make_out(tmp_path)
    again(counting, out, views=1)
    victim = (out / Shard("train", 0, 1).name).read_bytes()
    path = next(each for each in open_file_cache(out).folder.iterdir() if each.read_bytes() == victim)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    assert again(counting, out, views=1) == ROWS_PER_SHARD
    assert (out / Shard("train", 0, 1).name).read_bytes() == victim


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "one").write_text("x")
    link_file(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_text() == "x"


def test_a_link_that_breaks_otherwise_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        link_file(tmp_path / "nothing", tmp_path / "two")


KILLED = """
import os, signal
from pathlib import Path
from attar.pipeline.store import file_cache
from tests.support.tasks.smoke import weights
from tests.support.stages.labelling import label_with

left = [{after}]
digest = file_cache.compute_digest

def killing(path):  # called between a file's last byte and its name
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return digest(path)

file_cache.compute_digest = killing
folder = Path({folder!r})
here = "tests.stages.label.test_shard_labeller"
teacher = weights(folder / "teacher", f"{{here}}:Counting", f"{{here}}:ShardedPoints")
label_with(teacher, folder / "slot" / "out")
"""


def test_kill_9_costs_one_shard(tmp_path: Path, counting: Weights) -> None:
    out, after = make_out(tmp_path), 4
    child = subprocess.run([sys.executable, "-c", KILLED.format(after=after, folder=str(tmp_path))], check=False)
    assert child.returncode == -signal.SIGKILL
    folder = open_file_cache(out).folder
    done = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix != ".partial" and path.stat().st_size}
    assert len(done) == after
    assert len(list(folder.glob("*.partial"))) == 1
    Counting.asked.clear()
    label_with(counting, out)
    assert sum(Counting.asked) == ROWS_PER_SHARD + 10 + 2 * 20  # the rest of the second view, validation and test
    assert all(path.stat().st_mtime_ns == made for path, made in done.items())
    whole = label_with(counting, make_out(tmp_path, "whole"))
    for path in whole.root.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


class Said(ShardedPoints):
    """Points in chunks of lengths of their own: one to three positions."""

    inputs = {"x": Tensor("float32", ("batch", "length"))}
    outputs = {"y": Output(("batch", "length", 3))}
    ranges = {"batch": (1, 512), "length": (1, 8)}
    samples = 3 * views.CHUNK

    def split(self, name: SplitName) -> Split:
        return ByChunk(self.samples if name == "train" else 20 + len(name))

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        return inputs

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["y"]), 1))


@dataclass(frozen=True)
class ByChunk(Split):
    count: int

    def __len__(self) -> int:
        return self.count

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        length = 1 + int(indices[0]) % 3
        numbers = indices[:, None] + 1000 * self.count + np.arange(length) / 8
        return Batch({"x": numbers.astype(np.float32)}, {})


class Position(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.5, 0.25]) / 1024)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., None] * self.weight  # (B, L) -> (B, L, 3)


def test_rows_have_lengths_of_their_own(tmp_path: Path) -> None:
    teacher = weights(
        tmp_path / "teacher", "tests.stages.label.test_shard_labeller:Position", "tests.stages.label.test_shard_labeller:Said"
    )
    task = load_task(teacher.facts["task"])
    rows = label_with(teacher, make_out(tmp_path), views=1).open_rows("train", 0)["y"]
    lengths = set[int]()
    for number in range(3):
        seen = views.make_chunk(task, task.split("train"), number, seed=0, view=0)
        expected = predict_view(task, teacher, seen)["y"].astype(np.float16).astype(np.float32)
        lengths.add(expected.shape[1])
        assert rows[seen.indices].tobytes() == expected.tobytes()
    assert len(lengths) > 1
    assert rows[:].shape == (3 * views.CHUNK, max(lengths), 3)


class SilentPoints(ShardedPoints):
    def answer(self, graphs: Mapping[str, Predict], inputs: Arrays) -> dict[str, Array]:
        return {"z": np.zeros((len(inputs["x"]), 3), np.float32)}


def test_an_answer_that_lacks_an_output(tmp_path: Path) -> None:
    teacher = weights(
        tmp_path / "teacher",
        "tests.stages.label.test_shard_labeller:Counting",
        "tests.stages.label.test_shard_labeller:SilentPoints",
    )
    with pytest.raises(StageError, match=r"lacks \['y'\].*\['z'\]"):
        label_with(teacher, make_out(tmp_path))
