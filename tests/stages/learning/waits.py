"""A step of training waits for nothing that a GPU computes: what it reads is sent there before, from pinned memory.

``test_waits`` runs these tests in a process of their own: torch learns of no new device after its first backward pass.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch

from attar.pipeline.team import Team
from attar.stages.distill.feature_loss_settings import AnyLoss
from attar.stages.learning.loss_watch import READ_STEPS, LossWatch
from tests.support.engines.played_gpu import PLAYED, play_gpu
from tests.support.processes.team_board import Board
from tests.support.stages.training_cases import CASES, TrainingCase, open_training, take_step


def test_every_loss_is_in_a_case() -> None:
    tried = {type(loss) for case in CASES.values() for loss in case.losses}
    assert tried == set(get_args(get_args(AnyLoss)[0]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_waits_for_nothing(case: TrainingCase, tmp_path: Path) -> None:
    """The second one, after all that is made once; but for the projection of ``vkd``, which solves equations."""
    with play_gpu() as gpu, open_training(case, tmp_path, PLAYED) as training:
        take_step(training, 0)
        gpu.waits.clear()
        take_step(training, 1)
        assert gpu.waits == ["aten._linalg_check_errors.default"] * case.solves
        gpu.waits.clear()
        assert np.isfinite(training.check_loss(1))
        assert len(gpu.waits) == 1  # one look at all losses


def test_a_step_of_the_pretraining_waits_for_nothing(tmp_path: Path) -> None:
    with play_gpu() as gpu, open_training(CASES["distiller in two steps"], tmp_path, PLAYED) as training:
        gpu.waits.clear()
        take_step(training, 0, progress=0.1)
        assert gpu.waits == []
        assert training.objective.pop_means().keys() == {"distiller_score"}


def test_the_losses_are_read_together_and_the_first_bad_one_is_found() -> None:
    reads: list[tuple[int, int | None, int]] = []
    with play_gpu() as gpu:
        watch = LossWatch(PLAYED)
        watch.interval = READ_STEPS
        for step in range(2 * READ_STEPS):
            watch.read_at = time.monotonic()  # no matter how slow this machine is
            watch.add(torch.tensor(float("nan") if step == READ_STEPS + 3 else 1.0).to(PLAYED))
            gpu.waits.clear()
            if watch.is_due():
                reads.append((step, watch.read()[1], len(gpu.waits)))
    assert reads == [(READ_STEPS - 1, None, 1), (2 * READ_STEPS - 1, READ_STEPS - 4, 1)]


@pytest.mark.parametrize(("passed", "steps"), [(0.2, 50), (1.0, 10), (2.5, 4), (60.0, 1)])
def test_all_processes_read_after_the_same_step(passed: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps took the first process so long; the clock of the other one says nothing."""
    clock = iter([0.0, 0.0, passed, 3600.0])
    monkeypatch.setattr("attar.stages.learning.loss_watch.time", SimpleNamespace(monotonic=lambda: next(clock)))
    wire = Board()
    with play_gpu():
        team = [LossWatch(PLAYED, Team(rank, 2, wire)) for rank in range(2)]
        for watch in team:
            for _ in range(10):
                watch.add(torch.tensor(1.0).to(PLAYED))
            watch.read()
    assert [watch.interval for watch in team] == [steps, steps]
    assert not team[1].is_due()
