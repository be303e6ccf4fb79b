"""A training that dies at any step, by any means, goes on from that step and ends in the same bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attar.pipeline import team
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.loss_settings import Kd
from attar.stages.distill.stage import Distill
from attar.stages.label.stage import Label
from attar.stages.learning import training
from attar.stages.teach.stage import Teach
from tests.support.stages.training import InterruptError, interrupt_at, make_out
from tests.support.tasks.smoke import artifact

RING, LAYERS = "tests.support.tasks.ring_task:Ring", "tests.support.tasks.ring_task:layers"
STUDENT: dict[str, Any] = {"task": RING, "network": LAYERS, "options": {"dropout": 0.3}, "epochs": 3, "learning_rate": 0.01}
STEPS = 15  # 640 samples in steps of 128, three times
STAGE = Distill(
    **STUDENT, losses=(Kd(temperature=2.0),), distiller=DistillerSettings(hidden=8), ema=0.9, patience=2, gradient_clip=1.0
)

CHILD = """
import os, signal, sys
from attar.pipeline import team
from attar.pipeline.core.progress import listen_to_progress
from attar.stages.learning import training

training.CHECKPOINT_SECONDS = -1.0  # after every step

def kill(what, done, total, note):
    if done == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

with listen_to_progress(kill):
    team.run_stage_call(sys.stdin.read())
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    out = make_out(tmp_path_factory.mktemp("teacher"))
    return artifact(Weights, out, Teach(**STUDENT | {"options": {"width": 32}}).run(out))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, teacher: Weights) -> Answers:
    out = make_out(tmp_path_factory.mktemp("answers"))
    return artifact(Answers, out, Label(task=RING, views=2).run(out, teacher=teacher))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, teacher: Weights, answers: Answers) -> Weights:
    """What an uninterrupted training makes."""
    out = make_out(tmp_path_factory.mktemp("whole"))
    return artifact(Weights, out, STAGE.run(out, teacher=teacher, answers=answers))


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)


def finished(out: Path, teacher: Weights, answers: Answers, whole: Weights, first: int) -> None:
    """The rest of a training: it starts at step ``first``, and ends as the whole one did."""
    seen: list[int] = []
    with listen_to_progress(lambda what, done, total, note: seen.append(done)):
        assert STAGE.run(out, teacher=teacher, answers=answers) == whole.facts
    assert seen == list(range(first, STEPS + 1))
    assert (out / "weights.safetensors").read_bytes() == (whole.root / "weights.safetensors").read_bytes()


def test_kill_9_at_a_random_step(tmp_path: Path, teacher: Weights, answers: Answers, whole: Weights) -> None:
    """Dropout, the distiller and its notes, the average of the weights, the optimizer: all go on as if nothing had been."""
    out, step = make_out(tmp_path), random.Random(20).randrange(2, STEPS)
    job = team.encode_stage_call(STAGE, out, {"teacher": teacher, "answers": answers}, tmp_path)
    done = subprocess.run([sys.executable, "-c", CHILD, str(step)], input=job, text=True, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished(out, teacher, answers, whole, first=step)  # the checkpoint of a step is written after it is told of


@given(st.lists(st.integers(1, STEPS), min_size=1, max_size=4, unique=True).map(sorted))
@settings(max_examples=8, deadline=None)
def test_any_interruptions_at_any_steps(
    tmp_path_factory: pytest.TempPathFactory, teacher: Weights, answers: Answers, whole: Weights, steps: list[int]
) -> None:
    out = make_out(tmp_path_factory.mktemp("broken"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
        for step in steps:
            with pytest.raises(InterruptError), listen_to_progress(interrupt_at(step)):
                STAGE.run(out, teacher=teacher, answers=answers)
        finished(out, teacher, answers, whole, first=steps[-1])


@pytest.mark.usefixtures("every_step")
def test_interruptions_where_a_step_has_several_parts(tmp_path: Path) -> None:
    runs = [make_out(tmp_path, name) for name in ("whole", "broken")]
    stage = Teach(**STUDENT, accumulate=2)
    facts = stage.run(runs[0])
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(7)):
        stage.run(runs[1])
    assert stage.run(runs[1]) == facts
    assert (runs[0] / "weights.safetensors").read_bytes() == (runs[1] / "weights.safetensors").read_bytes()


def test_dropout_counts(tmp_path: Path, teacher: Weights, answers: Answers, whole: Weights) -> None:
    """Guards the tests above: dropout does decide the bytes."""
    without = STAGE.model_copy(update={"options": {}})
    out = make_out(tmp_path)
    without.run(out, teacher=teacher, answers=answers)
    assert (out / "weights.safetensors").read_bytes() != (whole.root / "weights.safetensors").read_bytes()


def interrupt_training(out: Path, step: int) -> Path:
    """Begin a training, end it at a step, and return its checkpoint."""
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(step)):
        Teach(**STUDENT).run(out)
    return out.parent / "scratch" / "checkpoint.safetensors"


@pytest.mark.usefixtures("every_step")
def test_checkpoints_by_time_hold_the_step(tmp_path: Path) -> None:
    with safe_open(interrupt_training(make_out(tmp_path), 8), framework="pt") as content:
        state = content.metadata()["state"]
    assert '"done": 2' in state  # two of the second epoch's five


@pytest.mark.usefixtures("every_step")
def test_a_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    """As those were that had numbers in place of names: going on would give one parameter the moments of another."""
    out = make_out(tmp_path)
    file = interrupt_training(out, 3)
    with safe_open(file, framework="pt") as content:
        state = content.metadata()
    renamed = {key.replace("optimizer/module.0.weight/", "optimizer/0/"): tensor for key, tensor in load_file(file).items()}
    save_file(renamed, file, metadata=state)
    with pytest.raises(StageError, match=r"checkpoint\.safetensors.*'0'"):
        Teach(**STUDENT).run(out)


@pytest.mark.usefixtures("every_step")
def test_a_checkpoint_that_was_cut_is_named(tmp_path: Path) -> None:
    """As a power loss may leave one of a disk that says too early what it holds."""
    out = make_out(tmp_path)
    file = interrupt_training(out, 3)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StageError, match=r"checkpoint\.safetensors is damaged .*; delete it to start the training again"):
        Teach(**STUDENT).run(out)
    file.unlink()
    assert Teach(**STUDENT).run(out)["best_epoch"] == 3


def test_the_network_may_be_made_by_the_caller(tmp_path: Path) -> None:
    from attar.stages.learning.loop import FreshViews, train_network
    from attar.stages.learning.objective import LabelObjective
    from tests.support.tasks.ring_task import layers

    facts = train_network(
        Teach(**STUDENT), make_out(tmp_path), "teacher", LabelObjective(), FreshViews(0), module=lambda: layers(width=3)
    )
    assert facts["parameters"] == sum(parameter.numel() for parameter in layers(width=3).parameters())
