"""A user's repository with packages of its own named models, stages and pipeline, beside an installed attar."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import attar

FILES = {
    "models/__init__.py": "",
    "models/blocks.py": """
        from torch import nn


        def hidden(width: int) -> nn.Module:
            return nn.Sequential(nn.Linear(4, width), nn.ReLU())
        """,
    "stages/__init__.py": "",
    "stages/points.py": """
        import numpy as np

        SIZES = {"train": 512, "validation": 128, "test": 256}


        def points(split):
            generator = np.random.default_rng(list(SIZES).index(split))
            return generator.standard_normal((SIZES[split], 4)).astype(np.float32)
        """,
    "pipeline/__init__.py": 'NAMES = ("inside", "outside")\n',
    "pipeline/labels.py": """
        import numpy as np

        RADIUS = 3.0


        def labels(points):
            return ((points**2).sum(1) > RADIUS).astype(np.int64)
        """,
    "nets.py": """
        from models.blocks import hidden
        from torch import nn


        def layers(width: int = 8) -> nn.Module:
            return nn.Sequential(hidden(width), nn.Linear(width, 2))
        """,
    "task.py": """
        import numpy as np
        from pipeline import NAMES
        from pipeline.labels import labels
        from stages.points import points

        import attar


        class Ball(attar.Task):
            inputs = {"point": attar.Tensor("float32", ("batch", 4))}
            outputs = {"logits": attar.Output(("batch", 2), target="side")}
            classes = NAMES

            def data(self):
                return ["points of a seeded generator"]

            def split(self, name):
                drawn = points(name)
                return attar.InMemory({"point": drawn}, {"side": labels(drawn)})

            def score(self, outputs, targets):
                return (outputs["logits"].argmax(1) == targets["side"])[:, None].astype(np.float64)
        """,
    "recipe.toml": """
        task = "task.py:Ball"

        [teacher]
        network = "nets.py:layers"
        options = { width = 32 }
        epochs = 8
        batch = 32
        learning_rate = 0.02
        precision = "fp32"

        [answers]
        views = 1

        [student]
        network = "nets.py:layers"
        options = { width = 16 }
        epochs = 16
        batch = 32
        learning_rate = 0.02
        precision = "fp32"

        [control]
        enabled = true

        [reference]
        exporter = "torchscript"  # seconds faster than dynamo

        [onnx]
        exporter = "torchscript"

        [targets.cpu]
        precision = "int8"

        [gates]
        score_drop = 0.3
        """,
}
pytestmark = pytest.mark.timeout(300)

SLOTS = ["teacher", "reference", "answers", "student", "control", "onnx", "calibration"]
SLOTS += [f"cpu.{name}" for name in ("model", "engine", "production", "evidence", "verdict", "bundle")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An import path that holds attar and nothing else, as an installation does."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "attar").symlink_to(Path(attar.__file__).parent)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedented(text), encoding="utf-8")
    return folder


def dedented(text: str) -> str:
    return "\n".join(line.removeprefix("        ") for line in text.strip("\n").splitlines()) + "\n"


def python(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python as an installed script would start it: the folder it runs in is not on the import path (``-P``)."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)


def store_of(project: Path) -> Path:
    return project.parent / f"{project.name}-store"


def slots(site: Path, project: Path, command: str) -> dict[str, dict[str, Any]]:
    """``attar COMMAND recipe.toml --json``, started elsewhere than in the project: each slot's entry."""
    options = ["--store", str(store_of(project)), "--json"]
    done = python(site, project.parent, "-m", "attar", command, str(project / "recipe.toml"), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return {entry["slot"]: entry for entry in json.loads(done.stdout)["slots"]}


@pytest.fixture(scope="module")
def first(site: Path, project: Path) -> dict[str, dict[str, Any]]:
    return slots(site, project, "label")


@pytest.fixture
def own(project: Path, first: dict[str, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the project to edit, beside a copy of the store that the first run filled."""
    copied = tmp_path / "project"
    shutil.copytree(project, copied, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(store_of(project), store_of(copied))
    return copied


def test_a_slot_is_made_with_the_users_own_task_and_network(first: dict[str, dict[str, Any]]) -> None:
    assert {name: entry["status"] for name, entry in first.items()} == {"teacher": "made", "answers": "made"}
    assert first["teacher"]["facts"]["network"] == "nets.py:layers"
    assert first["teacher"]["facts"]["parameters"] == 4 * 32 + 32 + 32 * 2 + 2


@pytest.mark.slow
def test_every_other_slot_is_too(site: Path, own: Path) -> None:
    made = slots(site, own, "run")
    assert list(made) == SLOTS
    assert [name for name, entry in made.items() if entry["status"] == "reused"] == ["teacher", "answers"]
    assert made["cpu.evidence"]["facts"]["classes"] == ["inside", "outside"]


def test_a_comment_in_the_users_packages_makes_nothing_again(site: Path, own: Path) -> None:
    for name in ("models/blocks.py", "stages/points.py", "pipeline/labels.py"):
        path = own / name
        path.write_text(path.read_text(encoding="utf-8") + "# a remark\n", encoding="utf-8")
    assert {entry["status"] for entry in slots(site, own, "label").values()} == {"reused"}


def test_a_change_in_the_users_package_named_pipeline_counts(site: Path, own: Path, first: dict[str, dict[str, Any]]) -> None:
    """attar's own pipeline is no part of any key; a user's package of the same name is."""
    slots(site, own, "teach")  # reuses the teacher; why something is made again is said of the last run of a recipe at this place
    path = own / "pipeline/labels.py"
    path.write_text(path.read_text(encoding="utf-8").replace("RADIUS = 3.0", "RADIUS = 3.5"), encoding="utf-8")
    teacher = slots(site, own, "teach")["teacher"]
    assert teacher["status"] == "made"
    assert teacher["key"] != first["teacher"]["key"]
    assert "pipeline.labels" in teacher["reason"]


def test_the_users_packages_import_as_ever(site: Path, project: Path) -> None:
    code = "import attar.stages, models, stages, pipeline; print(models.__file__, stages.__file__, pipeline.__file__, sep='\\n')"
    done = python(site, project, "-c", f"import sys; sys.path.insert(0, '.'); {code}")
    assert done.returncode == 0, done.stderr
    assert [(project / line).resolve().parent for line in done.stdout.splitlines()] == [
        project / name for name in ("models", "stages", "pipeline")
    ]
