"""A copy of this project, as a clone would hold it, for tests that build it or run it from outside the checkout."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("pipeline", "models", "engines", "proof", "bundle", "stages", "serving")
"""Folders of the repository that the package `attar` links to."""


def copy_project(folder: Path) -> Path:
    """Copy what git tracks or would add, links as links, into the new ``folder``; return it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        source, copy = ROOT / name, folder / name
        if source.exists():  # a file that was deleted but not committed is listed all the same
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
    return folder
