"""A search on a real Ray cluster of two nodes, on which processes die."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes.ray_cluster import TARGET, LocalCluster, open_local_cluster
from tests.support.projects import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# The smallest is found by sizes, which two machines measure alike.
RECIPE = tiny.RECIPE.replace("epochs = 20", "epochs = 9").replace('precision = "int8"', 'precision = "fp32"\nrepeats = 20')
SEARCH = f"""
[search]
"student.options.width" = [2, 8, 16]
parallel = 2
objective = "size"

[search.resources]
target = "{TARGET}"
"""
DYING = """
    def forward(self, point):
        if self.training and self[0].out_features == 16:
            sys.stderr.write("the last words of a trial\\n")
            sys.stderr.flush()
            time.sleep(3)
            os.kill(os.getpid(), 9)
        return super().forward(point)
"""
MORTAL = tiny.NETS.replace(
    "from torch import nn", f"import os, sys, time\nfrom torch import nn\n\nclass Mortal(nn.Sequential):{DYING}"
)
MORTAL = MORTAL.replace(
    "return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))",
    "return Mortal(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with open_local_cluster(tmp_path_factory.mktemp("cluster")) as opened:
        yield opened


def write_command(folder: Path, cluster: LocalCluster) -> list[str]:
    places = ["--store", (folder / "bucket").as_uri(), "--cache", str(folder / "cache")]
    return [sys.executable, "-m", "attar", "search", "recipe.toml", "--json", *places, "--ray", cluster.address]


def search(folder: Path, command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, cwd=folder, env=tiny.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def search_alone(folder: Path, other: Path, cluster: LocalCluster) -> dict[str, Any]:
    """Search without Ray, on the timings of another search and on nothing that it trained."""
    tiny.write(folder, recipe=RECIPE + SEARCH)
    shutil.copytree(other / "bucket", folder / "bucket")
    for path in (folder / "bucket" / "records").iterdir():
        slot = json.loads(path.read_text())["record"]["slot"]
        if slot not in ("teacher", "reference", "answers") and not slot.startswith("search."):
            path.unlink()
    return search(folder, write_command(folder, cluster)[:-2])


def list_students(folder: Path) -> dict[str, str]:
    """The trained students in the shared store: the text of each record, by key."""
    texts = {path.stem: path.read_text() for path in (folder / "bucket" / "records").glob("*.json")}
    return {key: text for key, text in texts.items() if json.loads(text)["record"]["slot"] == "student"}


def wait_for_student(folder: Path, command: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 900
    while not list_students(folder):
        assert command.poll() is None, command.stderr and command.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.2)


def describe_choice(found: dict[str, Any]) -> dict[str, Any]:
    """What decides, and what was found: all but timings."""
    names = ("name", "status", "epochs", "score", "size_bytes")
    rows = {each["name"]: {name: each[name] for name in names} for each in found["search"]["variants"]}
    return {"winner": found["search"]["winner"], "rows": rows}


def test_a_worker_and_the_command_are_killed_and_the_winner_is_that_of_one_machine(tmp_path: Path, cluster: LocalCluster) -> None:
    folder = tmp_path / "shared"
    tiny.write(folder, recipe=RECIPE + SEARCH)
    with subprocess.Popen(
        write_command(folder, cluster), cwd=folder, env=tiny.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as command:
        cluster.kill_worker("ray::do_training", 900)
        wait_for_student(folder, command)
        command.kill()
    before = list_students(folder)
    found = search(folder, write_command(folder, cluster))
    after = list_students(folder)
    assert before.items() <= after.items(), "no finished training is made again"
    assert found["targets"]["cpu"]["verdict"] == "passed"
    assert Path(found["targets"]["cpu"]["bundle"], "manifest.json").is_file()

    alone = search_alone(tmp_path / "alone", folder, cluster)
    assert describe_choice(alone) == describe_choice(found)


def test_a_head_that_dies_ends_the_command_and_another_cluster_goes_on(tmp_path: Path) -> None:
    folder, first, second = tmp_path / "shared", tmp_path / "first", tmp_path / "second"
    tiny.write(folder, recipe=RECIPE + SEARCH)
    for cluster_folder in (first, second):
        cluster_folder.mkdir()
    with open_local_cluster(first) as cluster:
        command = subprocess.Popen(write_command(folder, cluster), cwd=folder, env=tiny.environment(), stderr=subprocess.PIPE)
        wait_for_student(folder, command)
        cluster.kill_head()
        _, told = command.communicate(timeout=300)
    assert command.returncode == 1, told.decode()
    assert b"the head of the cluster" in told
    assert b"the same command" in told
    before = list_students(folder)
    with open_local_cluster(second) as cluster:
        found = search(folder, write_command(folder, cluster))
    assert before.items() <= list_students(folder).items(), "no finished training is made again"
    assert found["targets"]["cpu"]["verdict"] == "passed"


def test_a_trial_that_dies_is_told_with_the_end_of_its_log_and_the_others_go_on(tmp_path: Path, cluster: LocalCluster) -> None:
    deadly = SEARCH.replace("[2, 8, 16]", "[8, 16]") + "max_retries = 0\n"
    tiny.write(tmp_path, nets=MORTAL, recipe=RECIPE + deadly)
    found = search(tmp_path, write_command(tmp_path, cluster))
    rows = {each["settings"]["student.options.width"]: each for each in found["search"]["variants"]}
    assert rows[8]["status"] == "kept"
    assert rows[16]["status"] == "failed"
    assert "the last words of a trial" in rows[16]["reason"]
    assert "the last words of a trial" in Path(found["page"]).read_text(encoding="utf-8")


def test_a_cluster_of_another_version_of_ray_is_refused(tmp_path: Path, cluster: LocalCluster) -> None:
    tiny.write(tmp_path, recipe=RECIPE + SEARCH)
    main = "import sys, ray; ray.__version__ = '1.0'; from attar.cli.main import main; main(sys.argv[1:])"
    arguments = write_command(tmp_path, cluster)[3:]
    done = subprocess.run([sys.executable, "-c", main, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "another version of Ray" in done.stderr
    assert not (tmp_path / "bucket" / "records").exists()
