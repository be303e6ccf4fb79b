"""A user's project that runs through every slot in seconds: points on a plane, two classes, its data in one file."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from attar.cli.main import main

TASK = """
from pathlib import Path
import numpy as np
import attar

DATA = Path(__file__).parent / "points.npz"

class Circle(attar.Task):
    '''Is a point inside a circle?'''
    inputs = {"point": attar.Tensor("float32", ("batch", 2))}
    outputs = {"logits": attar.Output(("batch", 2), target="inside")}
    ranges = {"batch": (1, 32)}
    classes = ("outside", "inside")

    def data(self):
        return [DATA]

    def split(self, name):
        with np.load(DATA) as arrays:
            return attar.InMemory({"point": arrays[name]}, {"inside": arrays[name + "_inside"]})

    def augment(self, inputs, generator):
        return {"point": inputs["point"] + 0.02 * generator.standard_normal(inputs["point"].shape).astype("float32")}

    def score(self, outputs, targets):
        return (outputs["logits"].argmax(1) == targets["inside"])[:, None].astype(float)
"""
NETS = """
from torch import nn

def teacher(width=32):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

def student(width=8):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))
"""
RECIPE = """
task = "task.py:Circle"
seed = 1

[teacher]
network = "nets.py:teacher"
epochs = 6
batch = 64
learning_rate = 0.02

[answers]
views = 2

[student]
network = "nets.py:student"
options = { width = 16 }
epochs = 20
batch = 32
learning_rate = 0.05

[reference]
exporter = "torchscript"  # seconds faster than dynamo, which the tests of `Export` are about

[onnx]
exporter = "torchscript"

[calibration]
samples = 256

[targets.cpu]
precision = "int8"
threads = 1

[gates]
score_drop = 0.1
correlation = 0.5
"""
SLOTS = ["teacher", "reference", "answers", "student", "control", "onnx", "calibration"]
SLOTS += [f"cpu.{name}" for name in ("model", "engine", "production", "evidence", "verdict", "bundle")]


def points(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, count in {"train": 1024, "validation": 256, "test": 256}.items():
        arrays[name] = generator.uniform(-1, 1, (count, 2)).astype(np.float32)
        arrays[f"{name}_inside"] = (np.square(arrays[name]).sum(1) < 0.6).astype(np.int64)
    return arrays


def write(folder: Path, *, task: str = TASK, nets: str = NETS, recipe: str = RECIPE) -> Path:
    """The project in ``folder``; returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.py").write_text(task)
    (folder / "nets.py").write_text(nets)
    (folder / "recipe.toml").write_text(recipe)
    if not (folder / "points.npz").exists():
        save(folder, points())
    return folder / "recipe.toml"


def save(folder: Path, arrays: dict[str, Any]) -> None:
    np.savez(folder / "points.npz", **arrays)


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "attar", *arguments, "--store", str(folder / "store")]


def environment(threads: int | None = 1) -> dict[str, str]:
    """Of a child: networks this small are fastest on one thread; None leaves the choice to the libraries."""
    return {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}


def attar(folder: Path, *arguments: str, threads: int | None = 1) -> subprocess.CompletedProcess[str]:
    """``attar ... --store FOLDER/store`` in the project's folder; the test's own timeout is the limit."""
    full = command(folder, *arguments)
    return subprocess.run(full, cwd=folder, env=environment(threads), capture_output=True, text=True, check=False)


@contextlib.contextmanager
def project_folder(folder: Path) -> Iterator[None]:
    """Work in a project's folder, in this process: what it imports is forgotten afterwards, and no bytecode is kept.

    Bytecode is found again by the second that its source was written in; a test edits a file more than once in one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "dont_write_bytecode", True)
        before = set(sys.modules)
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None)
                if file is not None and Path(file).is_relative_to(folder):
                    del sys.modules[name]


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As ``attar``, in this process: what is only made or reused needs no interpreter of its own."""
    full = [*arguments, "--store", str(folder / "store")]
    with project_folder(folder):
        done = CliRunner().invoke(main, full)
    return subprocess.CompletedProcess(full, done.exit_code, done.stdout, done.stderr)


def run(folder: Path, *arguments: str, code: int = 0, recipe: str = "recipe.toml") -> dict[str, Any]:
    """``attar run RECIPE --json`` in a process of its own; its object. The exit code must be ``code``."""
    return read_run(attar(folder, "run", recipe, "--json", *arguments, threads=None if recipe == "demo" else 1), code)


def call_run(folder: Path, *arguments: str, code: int = 0, recipe: str = "recipe.toml") -> dict[str, Any]:
    """As ``run``, in this process."""
    return read_run(call(folder, "run", recipe, "--json", *arguments), code)


def read_run(done: subprocess.CompletedProcess[str], code: int) -> dict[str, Any]:
    assert done.returncode == code, done.stdout + done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def statuses(made: dict[str, Any]) -> dict[str, str]:
    return {entry["slot"]: entry["status"] for entry in made["slots"]}


def entry(made: dict[str, Any], slot: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in made["slots"] if each["slot"] == slot)
    return found


def made_again(made: dict[str, Any]) -> list[str]:
    return [slot for slot, status in statuses(made).items() if status == "made"]
