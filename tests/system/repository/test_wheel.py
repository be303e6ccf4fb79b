"""The wheel: built from a copy, installed into empty environments, used outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.projects.copies import ROOMS, ROOT, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(420)]

HEAVY = ("torch", "onnx", "matplotlib", "sklearn")


@dataclass(frozen=True)
class CleanEnvironment:
    """A virtual environment and a folder outside the checkout to use it in."""

    root: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        command = [str(self.root / "bin" / program), *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)

    def succeed(self, program: str, *arguments: str) -> str:
        done = self.run(program, *arguments)
        assert done.returncode == 0, f"{program} {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def install(self, what: str) -> None:
        self.succeed("python", "-m", "pip", "install", "-q", "--constraint", str(ROOT / "constraints.txt"), what)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel that was made from it."""
    copy = copy_project(tmp_path_factory.mktemp("copy"))
    made = subprocess.run([sys.executable, "-m", "build", str(copy)], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    """An environment that holds the wheel and its core dependencies alone."""
    made = CleanEnvironment(tmp_path_factory.mktemp("env"), tmp_path_factory.mktemp("elsewhere"))
    subprocess.run([sys.executable, "-m", "venv", str(made.root)], check=True)
    made.install(str(wheel))
    return made


def list_package_files() -> set[str]:
    """Return what the import package must hold: its modules, and the data files that are read at run time."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOMS, "attar"]
    tracked = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    files = [name for name in tracked if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]
    return {name if name.startswith("attar/") else f"attar/{name}" for name in files}


def test_wheel_and_sdist_hold_every_file_and_take_no_other_name(built: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    assert {name for name in files if not name.startswith("attar-")} == list_package_files()
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    assert list_package_files() | {"LICENSE", "README.md", "pyproject.toml"} <= source
    assert not {name for name in source if name.startswith(tuple(f"{room}/" for room in ROOMS))}


def test_core_install_works_without_torch(environment: CleanEnvironment) -> None:
    for package in HEAVY:
        assert environment.run("python", "-c", f"import {package}").returncode != 0, f"{package} is installed"
    assert environment.succeed("attar", "--version").strip().endswith("0.1.0")
    assert "distill" in environment.succeed("attar", "--help")
    assert "teacher" in json.loads(environment.succeed("attar", "schema"))["properties"]
    assert json.loads(environment.succeed("attar", "doctor", "--json"))["train"]["torch"] == "not installed"
    assert "0 artifacts" in environment.succeed("attar", "ls")
    where = environment.succeed("python", "-c", "import attar.pipeline.run as run; print(run.__file__)")
    assert Path(where.strip()).is_relative_to(environment.root)


def test_training_without_torch_says_what_to_install(environment: CleanEnvironment) -> None:
    done = environment.run("attar", "run", "digits")
    assert done.returncode in {1, 2}
    assert "install" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_runs_and_its_bundle_opens(wheel: Path, environment: CleanEnvironment) -> None:
    """With the extras: the smoke recipe from the wheel alone, in a folder of its own."""
    environment.install(f"{wheel}[train,examples]")
    made = json.loads(environment.succeed("attar", "run", "digits", "--json"))
    assert {slot["status"] for slot in made["slots"]} == {"made"}
    (target,) = made["targets"]
    assert made["targets"][target]["verdict"] == "passed"
    environment.succeed("attar", "check", f".attar/latest/digits/{target}")
    assert (environment.folder / ".attar/latest/digits/report.html").is_file()
