"""Workers prepare what the training's own process would, and what goes wrong in one of them is one message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from attar.models.checks.calls import CheckedSplit
from attar.models.checks.watch import SplitWatch
from attar.models.epoch import Epoch, Source
from attar.models.task import Batch, InMemory, Split, SplitName
from attar.models.views import ViewBatch
from attar.pipeline import team
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.observation import collect_observations
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.learning import training
from attar.stages.loading import BatchClock, ChunkRequest, form_ahead, open_loader
from attar.stages.teach.stage import Teach
from tests.support.stages.training import InterruptError, interrupt_at, make_out
from tests.support.tasks.noisy import TASK, numbered
from tests.support.tasks.ring_task import Ring

RING, LAYERS = "tests.support.tasks.ring_task:Ring", "tests.support.tasks.ring_task:layers"
TEACH: dict[str, Any] = {"task": RING, "network": LAYERS, "options": {"dropout": 0.3}, "epochs": 3, "learning_rate": 0.01}


def read(source: Source, workers: int) -> Iterator[tuple[list[int], bytes, list[int]]]:
    epoch = Epoch(source, 96, 5)
    requests = [ChunkRequest(2, number) for number in epoch.list_chunks()]
    with open_loader(source, requests, workers) as chunks:
        batches = epoch.iterate_batches(chunks)
        for part in form_ahead(batches) if workers else batches:
            yield part.indices.tolist(), part.inputs["x"].tobytes(), part.targets["label"].tolist()


pytestmark = [
    # Python warns of a fork beside the threads of torch, which a worker does not use.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # of a machine with fewer cores
]


@pytest.mark.parametrize("workers", [1, 8])
def test_batches_are_the_same_for_any_number_of_workers(workers: int) -> None:
    source = Source(TASK, numbered(5000), InMemory({"x": np.zeros((700, 2), np.float32)}, {}), seed=3)
    assert list(read(source, workers)) == list(read(source, 0))


def test_a_training_with_workers_ends_in_the_same_bytes(tmp_path: Path) -> None:
    runs = [make_out(tmp_path, name) for name in ("alone", "beside")]
    facts = [Teach(**TEACH, workers=workers).run(out) for workers, out in zip((0, 2), runs, strict=True)]
    assert facts[0] == facts[1]
    assert (runs[0] / "weights.safetensors").read_bytes() == (runs[1] / "weights.safetensors").read_bytes()


CHILD = """
import os, signal, sys
from attar.pipeline import team
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.learning import training

training.CHECKPOINT_SECONDS = -1.0  # after every step

def kill(what, done, total, note):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)

with listen_to_progress(kill):
    team.run_stage_call(sys.stdin.read())
"""


@pytest.mark.slow  # another interpreter that imports torch
@pytest.mark.timeout(600)
def test_kill_9_with_workers_leaves_none_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, out = make_out(tmp_path, "whole"), make_out(tmp_path)
    facts = Teach(**TEACH, workers=0).run(whole)
    job = team.encode_stage_call(Teach(**TEACH, workers=2), out, {}, tmp_path)
    done = subprocess.run([sys.executable, "-c", CHILD], input=job, text=True, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr  # its pipes are closed: no worker holds them
    assert Teach(**TEACH, workers=1).run(out) == facts
    assert (out / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_an_interruption_with_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    out = make_out(tmp_path)
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(7)):
        Teach(**TEACH, workers=1).run(out)
    assert Teach(**TEACH, workers=0).run(out) == Teach(**TEACH, workers=0).run(make_out(tmp_path, "whole"))


class BrokenRows(InMemory):
    """Fails at one sample, in one way."""

    how = "raises"

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        if 4711 in indices and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if 4711 in indices:
            raise ValueError("cut off after 100 bytes")
        return super().take(indices)

    def name_sample(self, index: int) -> str:
        return f"images/{index}.jpg"


def make_broken(how: str) -> Source:
    whole = numbered(5000)
    split = BrokenRows(whole.inputs, whole.targets)
    object.__setattr__(split, "how", how)
    return Source(TASK, split)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_named(workers: int) -> None:
    with pytest.raises(StageError, match=r"^sample 4711 of train \(images/4711.jpg\): .*ValueError: cut off"):
        list(read(make_broken("raises"), workers))


def test_a_worker_that_is_killed_is_told_with_its_samples() -> None:
    with pytest.raises(StageError, match=r"(?s)worker \(pid.* 512 samples of train, from \d+ \(images/.*workers = 0") as caught:
        list(read(make_broken("killed"), 1))
    assert "\n" not in str(caught.value)


class Swapped(Ring):
    """Its training samples are others from the first step on."""

    offset: ClassVar[dict[str, float]] = {}

    def split(self, name: SplitName) -> Split:
        whole = super().split(name)
        assert isinstance(whole, InMemory)
        return Swapping(whole.inputs, whole.targets) if name == "train" else whole


class Swapping(InMemory):
    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        batch = super().take(indices)
        moved = np.asarray(batch.inputs["point"], np.float32) + np.float32(Swapped.offset.get("train", 0))
        return Batch({"point": moved}, batch.targets)


def test_a_split_that_changes_while_it_is_read_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Teach(**TEACH | {"task": "tests.stages.test_loading:Swapped"})
    swap = partial(monkeypatch.setitem, Swapped.offset, "train", 1.0)
    with (
        listen_to_progress(lambda *told: swap()),
        pytest.raises(StageError, match=r"Swapped\.split\('train'\) changed while it was read"),
    ):
        stage.run(make_out(tmp_path))


@pytest.mark.parametrize(("count", "found"), [(1, "had 1300 samples and has 1301"), (0, "some are others")])
def test_a_split_that_is_not_what_it_was(count: int, found: str) -> None:
    watch = SplitWatch.start(CheckedSplit("Noisy.split", numbered(1300)))
    watch.check()
    changed = numbered(1300 + count)
    changed.inputs["x"][1000:] = 0
    with pytest.raises(StageError, match=found):
        replace(watch, split=CheckedSplit("Noisy.split", changed)).check()


def test_a_training_tells_how_long_it_waits(tmp_path: Path) -> None:
    notes: list[str] = []
    with listen_to_progress(lambda what, done, total, note: notes.append(note)), collect_observations() as observed:
        Teach(**TEACH).run(make_out(tmp_path))
    assert all(note.endswith(" %") and "waiting" in note for note in notes)
    assert observed["workers"] == 0
    assert 0 < observed["waiting"] < 1


def test_waiting_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 3.0, 4.0, 5.0, 8.0])  # waits of 3 s and 1 s, steps of 1 s and 3 s
    monkeypatch.setattr("attar.stages.loading.time", SimpleNamespace(perf_counter=lambda: next(times)))
    clock, batch = BatchClock(), ViewBatch(np.arange(1), {}, {})
    assert list(clock.watch(iter([batch, batch]))) == [batch, batch]
    assert clock.share == 0.5


def form(count: int, formed: list[str]) -> Iterator[ViewBatch]:
    """Yield so many batches, and then fail."""
    for number in range(count):
        formed.append(threading.current_thread().name)
        yield ViewBatch(np.array([number]), {}, {})
    raise StageError("sample 7 is broken")


def test_the_next_batch_is_formed_beside_the_step_and_an_error_comes_in_its_place() -> None:
    formed: list[str] = []
    ahead = form_ahead(form(3, formed))
    seen = [int(next(ahead).indices[0]) for _ in range(3)]
    assert seen == [0, 1, 2]
    with pytest.raises(StageError, match="sample 7"):
        next(ahead)
    assert all(name.startswith("attar-batches") for name in formed)


def test_a_training_that_ends_between_two_batches_leaves_no_thread() -> None:
    formed: list[str] = []
    before, ahead = set(threading.enumerate()), form_ahead(form(9, formed))
    next(ahead)
    ahead.close()
    assert 1 <= len(formed) <= 2
    assert set(threading.enumerate()) <= before


def test_workers_beyond_the_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._utils.cpu_count", lambda: 1)
    with pytest.warns(UserWarning, match="create 2 worker"):
        list(read(Source(TASK, numbered(96)), 2))


def test_workers_do_not_count_in_the_key() -> None:
    assert "workers" not in Teach(**TEACH).deciding()
