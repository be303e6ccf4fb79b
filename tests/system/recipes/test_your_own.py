"""docs/your-own.md is followed: its files are written and its commands run, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.projects.copies import ROOT

PAGE = (ROOT / "docs/your-own.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^`(?P<file>[\w.]+)`\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def script() -> Iterator[str]:
    """The page as one shell script: a named block is written, Python without a name is run, a promised exit code is checked."""
    for block in BLOCK.finditer(PAGE):
        if block["file"]:
            yield f"cat > {block['file']} <<'END'\n{block['text']}END"
        elif block["language"] == "python":
            yield f"python <<'END'\n{block['text']}END"
        else:
            yield from (checked(line) for line in block["text"].splitlines())


def checked(line: str) -> str:
    command, _, code = line.partition("# exit code ")
    return f"code=0; {command.strip()} || code=$?; test $code -eq {code}" if code else line


def test_nothing_on_the_page_is_left_out() -> None:
    assert {block["language"] for block in BLOCK.finditer(PAGE)} == {"python", "sh", "toml"}
    assert all(block["file"] for block in BLOCK.finditer(PAGE) if block["language"] == "toml")
    assert len(list(BLOCK.finditer(PAGE))) == PAGE.count("\n```") / 2
    lines = list(script())
    assert sum(line.startswith("cat > ") for line in lines) == 7
    assert "code=0; attar run recipe.toml || code=$?; test $code -eq 3" in lines


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        assert (ROOT / "docs" / target).is_file(), target


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_leads_to_a_bundle(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in {"attar": "-P -m attar", "python": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "work"
    folder.mkdir()
    done = subprocess.run(["bash", "-exc", "\n".join(script())], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first broken hop: student" in done.stdout + done.stderr
    assert re.search(r"^reuse +answers ", done.stdout, re.MULTILINE)
    assert (folder / "my-project/out/cpu/manifest.json").is_file()
