"""Compute: what this machine can do and what it cannot, and how a step's samples are cut into equal parts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.pipeline.team import Team, join_team
from attar.stages.learning.compute import Compute, choose_precision, is_bf16_faster, open_compute
from attar.stages.teach.stage import Teach
from tests.support.processes.team_board import Board
from tests.support.stages.training import READER, SENTENCES, make_out
from tests.support.tasks.smoke import DIGITS, RESIDUAL

LINEAR = nn.Linear(4, 4)


def settings(**given: Any) -> Teach:
    return Teach(**{"task": DIGITS, "network": RESIDUAL, "device": "cpu", **given})


def made(batch: int, **given: Any) -> None:
    with open_compute(settings(**given), LINEAR, "teacher", batch):
        pass


@pytest.mark.parametrize(("precision", "accelerates"), [("fp32", "no"), ("bf16", "bf16"), ("auto", "no")])
def test_precision_is_the_settings_whatever_the_environment_says(
    precision: str, accelerates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    with open_compute(settings(precision=precision), LINEAR, "teacher", 128) as found, found.accelerator.autocast():
        assert found.accelerator.mixed_precision == accelerates
        assert found.accumulate == 1
        assert found.accelerator.device.type == "cpu"
        assert LINEAR(torch.ones(2, 4)).dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)


def test_another_device_of_accelerates_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    with pytest.raises(StageError, match=r"chose meta, .*ACCELERATE_"):
        made(128)
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE")
    made(128)  # what was refused leaves nothing behind


def test_fp16_needs_cuda() -> None:
    with pytest.raises(StageError, match=r"'fp16' .*CUDA .*'bf16'"):
        made(128, precision="fp16")


def test_a_batch_that_cannot_be_cut() -> None:
    with pytest.raises(StageError, match=r"128 .*3 equal .*\(1 proc"):
        made(128, accumulate=3)
    with pytest.raises(StageError, match="multiple of 4, at least 8 and at most the number of samples"):
        made(4, accumulate=4)
    with (
        join_team(Board(), 0, 2),
        pytest.raises(StageError, match=r"130 .*\(2 proc.*= 2\)"),
    ):
        made(130, accumulate=2)


def test_processes_that_were_not_started_for_attar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StageError, match="torchrun"):
        made(128)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 5))
def test_the_parts_of_all_processes_are_every_row_once(world: int, accumulate: int, size: int) -> None:
    rows = np.arange(world * accumulate * size)
    parts: list[np.ndarray[Any, Any]] = []
    with open_compute(settings(accumulate=accumulate), LINEAR, "teacher", len(rows) if world == 1 else accumulate * 2) as one:
        for rank in range(world):
            one.team = Team(rank, world)
            each = Compute.__new__(Compute)
            each.__dict__ |= one.__dict__ | {"parts_per_step": accumulate * world}
            parts += [part.indices for part in each.split_batch(ViewBatch(each.share.take(rows), {}, {}))]
    assert {len(part) for part in parts} == {size}
    assert sorted(np.concatenate(parts)) == rows.tolist()


def test_accumulation_is_the_big_batch(tmp_path: Path) -> None:
    """Without batch statistics the mean over equal parts is the mean over all: the same curve but for rounding."""
    given: dict[str, Any] = {"task": SENTENCES, "network": READER, "epochs": 2, "learning_rate": 0.01, "gradient_clip": 1.0}
    whole = Teach(**given).run(make_out(tmp_path, "whole"))
    parts = Teach(**given, accumulate=4).run(make_out(tmp_path, "parts"))
    assert [each["loss"] for each in parts["history"]] == pytest.approx([each["loss"] for each in whole["history"]], rel=1e-4)
    assert parts["score"] == pytest.approx(whole["score"], abs=1e-3)


def test_the_mean_of_losses_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([3.0]))
    factors = iter((2, 4))  # losses of 6 and 12, gradients of 2 and 4
    nothing = ViewBatch(np.arange(0), {}, {})
    with open_compute(settings(accumulate=2), LINEAR, "teacher", 8) as found:
        step_loss = found.distribute(nn.ParameterList([weight]), lambda part, view: (weight * next(factors)).sum())
        assert found.run_backward(step_loss, [nothing, nothing], 0) == 9
    assert weight.grad is not None
    assert weight.grad.item() == 3


def test_tensorboard_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "attar.stages.learning.compute.importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    )
    with pytest.raises(StageError, match=r"TensorBoard; .*attar\[tensorboard\]"):
        made(128, tensorboard=tmp_path)


def test_tensorboard_gets_each_epochs_numbers(tmp_path: Path) -> None:
    Teach(task=SENTENCES, network=READER, epochs=1, tensorboard=tmp_path / "runs").run(make_out(tmp_path))
    (events,) = (tmp_path / "runs" / "teacher").glob("events.*")
    assert b"loss" in events.read_bytes()
    assert b"score" in events.read_bytes()


def test_where_tensorboard_writes_does_not_count_in_the_key() -> None:
    assert "tensorboard" not in settings().deciding()
    assert "accumulate" in settings().deciding()


def test_bf16_needs_dense_convolutions_on_the_cpu() -> None:
    assert not is_bf16_faster(LINEAR)


@pytest.mark.parametrize(("major", "faster"), [(7, False), (8, True)])
def test_bf16_that_a_gpu_emulates_is_not_taken(major: int, faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turing and Volta, of compute capability 7, make tensors of bf16 and multiply them in float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    cuda = torch.device("cuda")
    assert choose_precision(settings(precision="auto"), LINEAR, cuda) == ("bf16" if faster else "fp32")
    if not faster:
        with pytest.raises(StageError, match="no bf16"):
            choose_precision(settings(precision="bf16"), LINEAR, cuda)


def test_a_training_in_float32_multiplies_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    made(128)
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(StageError, match="NVIDIA_TF32_OVERRIDE = 1"):
        made(128)
