"""Two real processes of torchrun, over gloo: the same labels, the same curve, and what breaks in one ends both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from attar.pipeline.store.store import Store
from tests.support.projects import tiny
from tests.support.tasks import ring_task
from tests.support.tasks.ring_task import layers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # each starts several interpreters that import torch

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
TORCHRUN += ["--rdzv-endpoint", "localhost:0", "-m", "attar"]

RECIPE = """
task = "ring_task.py:Scarce"

[teacher]
network = "ring_task.py:layers"
options = { width = 32 }
weights = "teacher.safetensors"

[answers]
views = 2
features = ["5"]

[student]
network = "NETS"
epochs = 4
batch = 32  # parts of eight, of which some have no label
learning_rate = 0.02
accumulate = 2
lambda_kd = 1.0
losses = [{ kind = "kd", temperature = 2.0 }, { kind = "vkd", student = "5", teacher = "5" }]
distiller = { teacher_attention = false, student_attention = false }

[control]
enabled = true
options = { norm = true }
"""
BREAKS = """
import os
from torch import nn
from ring_task import layers

class Breaks(nn.Module):
    def __init__(self, norm=False):
        super().__init__()
        self.inner, self.calls = layers(), 0

    def forward(self, x):
        self.calls += self.training
        if os.environ.get("RANK") == "1" and self.calls > 3:
            raise RuntimeError("told to")
        return self.inner(x)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    torch.manual_seed(0)
    save_file(layers(width=32).state_dict(), folder / "teacher.safetensors")
    shutil.copy(Path(ring_task.__file__), folder)
    (folder / "recipe.toml").write_text(RECIPE.replace("NETS", "ring_task.py:layers"))
    breaks = RECIPE.replace("NETS", "breaks.py:Breaks").replace('student = "5"', 'student = "inner.5"')
    (folder / "breaks.toml").write_text(breaks)
    (folder / "breaks.py").write_text(BREAKS)
    return folder


def together(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, *arguments, "--store", str(folder / "two")]
    return subprocess.run(command, cwd=folder, env=tiny.environment(), capture_output=True, text=True, check=False)


def facts(store: Path, slot: str) -> tuple[str, dict[str, Any]]:
    """The digest and the facts of a slot."""
    (entry,) = [each for each in Store(store).entries() if each.record["slot"] == slot]
    return entry.record["digest"], json.loads((entry.root / "facts.json").read_text())


def curve(store: Path, slot: str) -> list[float]:
    return [each["loss"] for each in facts(store, slot)[1]["history"]]


def test_two_processes_are_one_but_for_rounding(project: Path) -> None:
    alone = tiny.attar(project, "distill", "recipe.toml")  # its store is FOLDER/store
    assert alone.returncode == 0, alone.stdout + alone.stderr
    two = together(project, "distill", "recipe.toml")
    assert two.returncode == 0, two.stdout + two.stderr
    for slot in ("teacher", "answers"):
        assert facts(project / "two", slot)[0] == facts(project / "store", slot)[0]
    assert curve(project / "two", "student") == pytest.approx(curve(project / "store", "student"), rel=1e-4)
    assert curve(project / "two", "control") == pytest.approx(curve(project / "store", "control"), abs=0.2)  # batch statistics
    assert facts(project / "two", "student")[1]["processes"] == 2
    assert not list((project / "two" / "work").glob("*"))


def test_what_breaks_in_one_process_ends_both(project: Path) -> None:
    done = together(project, "distill", "breaks.toml")
    assert done.returncode != 0
    assert "process 1: RuntimeError" in done.stderr
    students = [each for each in Store(project / "two").entries() if each.record["slot"] == "student"]
    assert not [each for each in students if each.record["deciders"]["settings"]["network"] == "breaks.py:Breaks"]
    assert tiny.attar(project, "plan", "breaks.toml").returncode == 0  # nothing is locked
