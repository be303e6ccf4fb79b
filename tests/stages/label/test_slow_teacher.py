"""A teacher that takes its time: labelling, adopting and measuring it show that they go on, by samples."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from attar.cli import console
from attar.models.tasks.digits import Digits
from attar.models.views import PIECE_SAMPLES
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.artifacts import Weights
from attar.stages.measure.bench import Bench
from attar.stages.teach.stage import Teach
from tests.support.stages.labelling import label_with
from tests.support.stages.training import make_out
from tests.support.tasks.smoke import DIGITS, weights

SLOW = "tests.stages.label.test_slow_teacher:Slow"
TRAIN, OTHERS = 1197, 300


class Slow(nn.Module):
    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.seconds = seconds  # a sample

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds * len(image))
        made: torch.Tensor = self.layer(image.flatten(1))  # (B, 1, 8, 8) -> (B, 10)
        return made


@contextmanager
def recorded() -> Iterator[list[tuple[str, int, int]]]:
    seen: list[tuple[str, int, int]] = []
    with listen_to_progress(lambda what, done, total, note: seen.append((what, done, total))):
        yield seen


def check_steps(seen: list[tuple[str, int, int]], what: str, total: int, most: int) -> None:
    """It begins and ends, never goes back, and moves by no more than ``most`` samples."""
    assert {(name, whole) for name, _, whole in seen} == {(what, total)}
    done = [0, *(each for _, each, _ in seen)]
    assert done[-1] == total
    assert all(0 <= later - earlier <= most for earlier, later in pairwise(done))


@pytest.fixture
def teacher(tmp_path: Path) -> Weights:
    return weights(tmp_path / "teacher", SLOW, DIGITS)


def test_labelling_moves_within_a_shard(tmp_path: Path, teacher: Weights) -> None:
    out = make_out(tmp_path)
    with recorded() as seen:
        label_with(teacher, out)
    check_steps(seen, "answers", 2 * TRAIN + 2 * OTHERS, PIECE_SAMPLES)
    shutil.rmtree(out)
    out.mkdir()
    with recorded() as again:  # all of it is kept
        label_with(teacher, out)
    assert again == []


def test_adopting_moves_by_samples(tmp_path: Path, teacher: Weights) -> None:
    with recorded() as seen:
        Teach(task=DIGITS, network=SLOW, weights=teacher.root / "weights.safetensors").run(make_out(tmp_path))
    check_steps(seen, "teacher", OTHERS, PIECE_SAMPLES)


def test_measuring_moves_by_batches(teacher: Weights) -> None:
    task = Digits()
    with recorded() as seen:
        Bench(task, task.split("test"), 32).answers("teacher", teacher)
    check_steps(seen, "measuring teacher", OTHERS, 32)


def test_a_log_has_a_line_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece takes longer than the time between lines, which is what ends a line's wait."""
    monkeypatch.setattr(console, "QUIET", 0.1)
    written = io.StringIO()
    view = console.ProgressView(Console(file=written, width=200), None)
    slow = weights(tmp_path / "slow", SLOW, DIGITS, seconds=0.001)
    with listen_to_progress(view.advance):
        label_with(slow, make_out(tmp_path), views=1)
    lines = written.getvalue().splitlines()
    assert len(lines) >= TRAIN // PIECE_SAMPLES
    assert re.fullmatch(r" +answers: \d+ of 1797  train view 0 waiting \d+ %  ETA 0:00:\d\d", lines[1])
