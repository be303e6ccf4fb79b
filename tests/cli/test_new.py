"""``attar new``: what it writes runs as it stands, and it overwrites nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attar.cli import new as cli_new
from attar.cli.main import main
from tests.support.projects.copies import ROOT

WRITTEN = {"README.md", "task.py", "nets.py", "recipe.toml", "test_project.py", "ci.sh", ".gitignore"}


def new(folder: Path | str) -> Result:
    return CliRunner().invoke(main, ["new", str(folder)])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(folder: Path | str, message: str) -> None:
    done = new(folder)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    done = new(folder)
    assert done.exit_code == 0, done.output
    assert "attar run recipe.toml" in done.stdout
    return folder


def test_every_file_is_written_and_nothing_else(project: Path) -> None:
    assert names(project) == WRITTEN
    assert names(project.parent) == {"project"}
    assert set(cli_new.FILES) == {path.name for path in cli_new.STARTER.iterdir() if path.is_file()}
    assert ".attar/" in (project / ".gitignore").read_text().splitlines()


def test_parents_are_made_and_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "a" / "b" / "project", tmp_path / "empty"):
        assert new(folder).exit_code == 0
        assert names(folder) == WRITTEN


def test_files_are_as_readable_as_any_that_the_user_makes(project: Path) -> None:
    (project.parent / "own").mkdir()
    (project.parent / "own/file").touch()
    assert project.stat().st_mode == (project.parent / "own").stat().st_mode
    assert {path.stat().st_mode for path in project.iterdir()} == {(project.parent / "own/file").stat().st_mode}


def test_a_folder_that_holds_something_is_left_as_it_is(project: Path) -> None:
    (project / "task.py").write_text("# mine\n")
    refused(project, "is not empty, and nothing in it is overwritten; name a folder that is new or empty")
    assert (project / "task.py").read_text() == "# mine\n"


def test_what_is_no_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "file", "is there and is no folder")
    refused(tmp_path / "link", "is there and is no folder")
    refused(tmp_path / "file" / "project", f"File exists ({tmp_path / 'file'}); name another folder")
    assert names(tmp_path) == {"file", "link"}


def test_a_name_that_no_folder_can_have(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300), "File name too long")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", [".", "", "linked"])
def test_a_folder_in_use_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whoever stands in it would stand nowhere."""
    (tmp_path / "here").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    refused(
        tmp_path / name if name == "linked" else name,
        "is the current folder or a link, which cannot be replaced; name a new folder",
    )
    assert names(tmp_path / "here") == set()


def test_what_breaks_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli_new.FILES, "gone.py", "gone.py")
    refused(tmp_path / "project", f"No such file or directory ({cli_new.STARTER / 'gone.py'}); name another folder")
    assert names(tmp_path) == set()


def test_what_it_names_is_there(project: Path) -> None:
    page = (project / "README.md").read_text()
    assert set(re.findall(r"^\| `([\w.]+)` ", page, re.MULTILINE)) == WRITTEN - {"README.md", ".gitignore"}
    assert set(re.findall(r"^attar (\w+)", page, re.MULTILINE)) <= set(main.commands)
    assert all((ROOT / path).is_file() for path in re.findall(r"docs/[\w-]+\.md", page))


def test_steps_are_as_many_for_the_control_as_the_recipe_says(project: Path) -> None:
    """Else what the control lacks would be training, not a teacher."""
    from attar.starter.task import SIZES

    recipe = tomllib.loads((project / "recipe.toml").read_text())
    student, control = recipe["student"], recipe["control"]
    steps = (SIZES["train"] + SIZES["transfer"]) // student["batch"] * student["epochs"]
    assert control["epochs"] * SIZES["train"] // control["batch"] == pytest.approx(steps, rel=0.05)


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-P", "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_it_can_be_planned(project: Path) -> None:
    done = program(project, "attar", "plan", "recipe.toml", "--json")
    assert done.returncode == 0, done.stderr
    actions = {slot["slot"]: slot["action"] for slot in json.loads(done.stdout)["slots"]}
    assert (actions["teacher"], actions["cpu.bundle"]) == ("run", "wait")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_its_stage_for_ci_passes_as_written_and_distillation_was_needed(project: Path) -> None:
    """The tests, the run and the check of the bundle; then the run again, which makes nothing."""
    programs = project.parent / "bin"
    programs.mkdir()
    for name, arguments in {"attar": "-P -m attar", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", "ci.sh"], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "distillation was needed" in done.stdout
    made = json.loads(program(project, "attar", "run", "recipe.toml", "--json").stdout)
    assert {slot["status"] for slot in made["slots"]} == {"reused"}
    assert made["targets"]["cpu"]["verdict"] == "passed"


@pytest.mark.slow
def test_its_files_pass_the_checks_of_this_project(project: Path) -> None:
    for arguments in (["check"], ["format", "--check"]):
        done = program(project, "ruff", *arguments, "--config", str(ROOT / "pyproject.toml"), ".")
        assert done.returncode == 0, done.stdout + done.stderr
