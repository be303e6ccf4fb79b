"""The README is run: its shell lines and its Python, in a copy of the project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.projects.copies import ROOT, copy_project

README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {
    "make demo": "minutes of training",
    "make search": "minutes of training, too",
    "make test": "it is what runs this",
}
"""Lines of the README that are not run here, and why."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def lines() -> list[str]:
    """Every command of the README's shell blocks, and the Make line in its text, without comments."""
    written = [re.sub(r"\s+#.*", "", line) for block in blocks("sh") for line in block.splitlines()]
    return [line for line in written if line] + re.findall(r"`(make [a-z ]+ RECIPE=\w+)`", README)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose ``.venv`` leads to the Python that runs the tests, so that nothing is installed."""
    folder = copy_project(tmp_path_factory.mktemp("copy"))
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "attar").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m attar "$@"\n', encoding="utf-8")
    (programs / "attar").chmod(0o755)
    (folder / ".venv/.ready").touch()
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_commands_run_as_written(copy: Path) -> None:
    environment = {**os.environ, "PATH": f"{copy}/.venv/bin:{os.environ['PATH']}", "PYTHONPATH": str(copy)}
    commands = [line for line in lines() if line not in ELSEWHERE]
    assert len(commands) >= 5
    commands.append(f"{sys.executable} <<'END'\n{blocks('python')[0]}END")
    for line in commands:
        done = subprocess.run(["bash", "-c", line], cwd=copy, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_lines_that_are_not_run_are_still_written() -> None:
    assert set(ELSEWHERE) <= set(lines())


def test_it_opens_with_its_three_commands() -> None:
    first = blocks("sh")[0]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make search", "make test"]


def test_every_command_is_in_its_table() -> None:
    from attar.cli.main import main

    table = re.findall(r"^\| `attar.*?\|", README, re.MULTILINE)
    named = {word for row in table for word in re.findall(r"[a-z]+", row)}
    assert set(main.commands) <= named


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target.split("#")[0]).exists(), f"README links to {target}, which is not there"


def test_its_files_are_there() -> None:
    for name in re.findall(r"`((?:pipeline|stages|models)/[\w/]*(?:\.py)?)`", README):
        assert (ROOT / name).exists(), f"README names {name}, which is not there"
