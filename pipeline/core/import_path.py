"""Import path: puts a recipe's folder first and drops the modules of other recipes' folders."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

_homes: set[Path] = set()
"""Folders of the recipes that this process has run."""


def put_first_on_path(home: Path) -> None:
    """Put this folder first on the import path, and drop modules imported from any recipe's folder.

    Keys are computed from files. A module that is still in memory may be an older version, or
    another recipe's file of the same name, and its results would be stored under the wrong key.
    """
    _homes.add(home)
    sys.path[:] = [str(home), *(entry for entry in sys.path if Path(entry) not in _homes)]
    inside_homes = tuple(f"{each}{os.sep}" for each in _homes)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        is_installed = not file or "site-packages" in file
        inside = not is_installed and file.startswith(inside_homes)
        if inside and name != "__main__" and name.partition(".")[0] != "attar":
            del sys.modules[name]
    importlib.invalidate_caches()
