"""Trainings by two processes each, on a real Ray cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes.ray_cluster import TARGET, open_local_cluster
from tests.support.projects import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SEARCH = f"""
[search]
"student.options.width" = [8, 16]
parallel = 2
objective = "size"

[search.resources]
processes = 2
target = "{TARGET}"
max_retries = 1
"""
RECIPE = tiny.RECIPE.replace("epochs = 20", "epochs = 9").replace('precision = "int8"', 'precision = "fp32"\nrepeats = 20')
WITNESSED = """
    def forward(self, point):
        rank = os.environ.get("RANK", "alone")
        if self.training:
            (pathlib.Path({folder!r}) / f"{{self[0].out_features}}-{{rank}}-{{os.getpid()}}").touch()
        if self.training and self[0].out_features == 16 and rank == "1":
            sys.stderr.write("the last words of the second process\\n")
            sys.stderr.flush()
            time.sleep(3)
            os.kill(os.getpid(), 9)
        return super().forward(point)
"""
"""It says who trains it; the second process of the wide one dies."""


def write_networks(folder: Path) -> str:
    witness = f"import os, pathlib, sys, time\nfrom torch import nn\n\nclass Witnessed(nn.Sequential):{WITNESSED}"
    networks = tiny.NETS.replace("from torch import nn", witness.format(folder=str(folder)))
    student = "nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))"
    return networks.replace(f"return {student}", f"return {student}".replace("nn.Sequential", "Witnessed"))


def call(folder: Path, *arguments: str) -> dict[str, Any]:
    places = ["--store", (folder / "bucket").as_uri(), "--cache", str(folder / "cache")]
    command = [sys.executable, "-m", "attar", *arguments, "--json", *places]
    done = subprocess.run(command, cwd=folder, env=tiny.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_two_processes_train_each_student_and_one_that_dies_ends_its_trial(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "seen").mkdir()
    tiny.write(tmp_path, nets=write_networks(tmp_path / "seen"), recipe=RECIPE + SEARCH)
    with open_local_cluster(tmp_path / "cluster", cpus=2) as cluster:
        found = call(tmp_path, "search", "recipe.toml", "--ray", cluster.address)
    rows = {each["settings"]["student.options.width"]: each for each in found["search"]["variants"]}
    assert (rows[8]["status"], rows[16]["status"]) == ("kept", "failed"), rows
    assert "the last words of the second process" in rows[16]["reason"]
    seen = [path.name.rsplit("-", 1)[0] for path in (tmp_path / "seen").iterdir()]
    processes = {place: seen.count(place) for place in ("8-0", "8-1", "16-0", "16-1")}
    assert processes == {"8-0": 1, "8-1": 1, "16-0": 2, "16-1": 2}, "a team begins again once"

    alone = call(tmp_path, "distill", "recipe.toml", "--set", "student.options.width=8")
    (student,) = [each for each in alone["slots"] if each["slot"] == "student"]
    assert student["reused"], "the number of processes is in no key"
