"""Import path: puts a recipe's folder first, and drops modules that may be older than their files.

Keys are computed from files. A module that is still in memory may be an older version, or another
recipe's file of the same name, and its results would be stored under the wrong key.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path

_homes: set[Path] = set()
"""Folders of the recipes that this process has run."""
_versions: dict[str, Hashable] = {}
"""By module of the user: the version of its file when this process last made sure of it."""


def put_first_on_path(home: Path) -> None:
    """Put this folder first on the import path, and drop modules imported from any recipe's
    folder."""
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


def drop_outdated_modules(versions: Mapping[str, Hashable]) -> None:
    """Drop the user's modules if one of them was imported before this version of its file, or
    nobody knows when. All go, since one has names of another."""
    is_old = any(
        name in sys.modules and _versions.get(name) != version for name, version in versions.items()
    )
    _versions.update(versions)
    if is_old:
        for name in _versions.keys() - {"__main__"}:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
