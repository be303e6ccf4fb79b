"""Environments: what the peers are installed into, each apart from attar and from the others, made
once and kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

QUIET = {"OLIVE_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
VERSIONS = (
    "import json, sys; from importlib.metadata import version; print(json.dumps({name: "
    "version(name) for name in sys.argv[1:]}))"
)


class UnavailableError(Exception):
    """Why something cannot be run here."""


def pin_version(package: str) -> str:
    """Return a requirement of the version that attar has, so that graphs are compared and not
    versions of a runtime."""
    try:
        return f"{package}=={version(package).partition('+')[0]}"
    except PackageNotFoundError:
        return package


@dataclass(frozen=True)
class Environment:
    name: str
    requirements: tuple[str, ...]
    """For pip. Their names are also those whose versions are recorded."""

    @property
    def packages(self) -> list[str]:
        return [requirement.partition("==")[0] for requirement in self.requirements]


OURS = Environment("attar", ("onnxruntime", "openvino", "torch", "numpy"))
"""The one that this benchmark runs in."""
OLIVE = Environment(
    "olive",
    (
        "olive-ai==0.13.0",
        pin_version("onnxruntime"),
        pin_version("torch"),
        "requests",
    ),  # which it imports and does not ask for
)
STOCK = Environment("onnxruntime", (pin_version("onnxruntime"), pin_version("onnx"), "sympy"))
NNCF = Environment("nncf", ("nncf", pin_version("openvino"), pin_version("onnx")))


def prepare_python(environment: Environment, cache: Path) -> Path:
    """Return an environment's interpreter; install what is missing. Raises UnavailableError with
    the installer's last words."""
    if environment is OURS:
        return Path(sys.executable)
    folder = cache.resolve() / environment.name
    made, note = folder / "bin" / "python", folder / "requirements.json"
    if not note.exists() or json.loads(note.read_text()) != list(environment.requirements):
        run_command([sys.executable, "-m", "venv", "--clear", str(folder)])
        run_command(
            [
                str(made),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                *environment.requirements,
            ]
        )
        note.write_text(json.dumps(environment.requirements))
    return made


def run_command(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=list_variables())
    if done.returncode:
        raise UnavailableError(
            find_last_words(done.stderr) or f"{command[0]} ended with {done.returncode}"
        )
    return done.stdout


def find_last_words(said: str) -> str:
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")


def read_versions(environment: Environment, cache: Path) -> Mapping[str, str]:
    if environment is OURS:
        return read_own_versions(environment.packages)
    found: dict[str, str] = json.loads(
        run_command(
            [str(prepare_python(environment, cache)), "-c", VERSIONS, *environment.packages]
        )
    )
    return found


def read_own_versions(packages: list[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def list_variables(path: str | None = None) -> dict[str, str]:
    """Return the variables for a process; ``path``: where it finds attar. The peers find only what
    is installed for them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | QUIET | ({"PYTHONPATH": path} if path else {})
