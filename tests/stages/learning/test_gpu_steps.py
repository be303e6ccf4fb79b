"""What the tests prove on a GPU that the CPU plays, on a real one: they are skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from attar.models import preprocess
from attar.models.preprocess import ChannelsFirst, Normalize, Scale
from attar.stages.learning.device_steps import DeviceSteps
from attar.stages.learning.lesson import Lesson, send_lesson
from tests.support.stages.training_cases import CASES, CPU, TrainingCase, open_training, take_step

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture
def _waits_are_errors() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


WAITLESS = {name: case for name, case in CASES.items() if not case.solves}


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")  # torch says so once
@pytest.mark.usefixtures("_waits_are_errors")
@pytest.mark.parametrize("case", WAITLESS.values(), ids=WAITLESS)
def test_a_step_waits_for_nothing(case: TrainingCase, tmp_path: Path) -> None:
    with open_training(case, tmp_path, CUDA) as training:
        take_step(training, 0)
        torch.cuda.set_sync_debug_mode("error")
        take_step(training, 1)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_loss_of_a_first_step_is_the_cpus(case: TrainingCase, tmp_path: Path) -> None:
    losses = []
    for device in (CPU, CUDA):
        with open_training(case, tmp_path / device.type, device) as training:
            training.module.apply(lambda layer: setattr(layer, "p", 0.0) if isinstance(layer, torch.nn.Dropout) else None)
            take_step(training, 0)
            losses.append(training.check_loss(1))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_bits_of_preprocessing_are_those_of_the_host() -> None:
    steps = {"image": [ChannelsFirst(), Scale(by=1 / 255), Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))]}
    raw = {"image": np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (2, 16, 16, 3)).copy()}
    got = DeviceSteps(steps, CUDA).apply(send_lesson(Lesson(raw, {}, 2), CUDA)).inputs["image"]
    np.testing.assert_array_equal(got.cpu().numpy(), preprocess.apply(steps, raw)["image"])
