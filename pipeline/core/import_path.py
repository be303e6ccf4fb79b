"""Import path: the recipe's folder comes first, and what another recipe's folder had brought is
forgotten."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_homes: set[Path] = set()
"""Recipes' folders that this process has run in."""


def put_first_on_path(home: Path) -> None:
    """Make this folder the first of the import path, and forget what was imported from a recipe's
    folder before.

    Keys are computed from files. A module that is still in memory may be an older version, or
    another recipe's file of the same name, and its results would be stored under the wrong key.
    """
    _homes.add(home)
    sys.path[:] = [str(home), *(entry for entry in sys.path if Path(entry) not in _homes)]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        inside = (
            file is not None
            and "site-packages" not in file
            and any(Path(file).is_relative_to(each) for each in _homes)
        )
        if inside and name != "__main__" and name.partition(".")[0] != "attar":
            del sys.modules[name]
    importlib.invalidate_caches()
