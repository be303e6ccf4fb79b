"""Import path: puts a recipe's folder first, drops modules that may be older than their files, and
tells a child process where attar is.

Keys are computed from files. A module that is still in memory may be an older version, or another
recipe's file of the same name, and its results would be stored under the wrong key.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class ModuleVersion(NamedTuple):
    """A file of a module as it was read."""

    path: str
    stamp: tuple[int, ...]
    changed: int
    """When it may have changed last, in nanoseconds."""
    imports: frozenset[str]
    """The modules that it has names of."""


def read_start_time() -> int:
    """Return when this process began, in nanoseconds, or 0 where the system does not tell
    (proc(5): field 22 of ``/proc/self/stat``)."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0
    after_boot = int(fields[19]) * 10**9 // os.sysconf("SC_CLK_TCK")
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + after_boot


STARTED = read_start_time()
_homes: set[Path] = set()
"""Folders of the recipes that this process has run."""
_versions: dict[str, ModuleVersion] = {}
"""By module of the user: the version of its file when this process last made sure of it."""


def make_child_environment() -> dict[str, str]:
    """Return this process's environment for a child that imports attar: attar's own home comes
    first on the path, then what ``PYTHONPATH`` has here.

    Rooms of a checkout are reached by links, so this file may be inside the package or beside it.
    """
    parents = Path(__file__).parents
    home = next(folder for folder in parents if (folder / "attar" / "__init__.py").is_file())
    paths = [str(home), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


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


def drop_outdated_modules(versions: Mapping[str, ModuleVersion]) -> None:
    """Drop the user's modules that were imported before these versions of their files, or may have
    been, and those that have names of them."""
    old = {name for name, version in versions.items() if _is_outdated(name, version)}
    _versions.update(versions)
    while more := {name for name, each in _versions.items() if each.imports & old} - old:
        old |= more
    for name in old - {"__main__"}:
        sys.modules.pop(name, None)
        parent, _, own = name.rpartition(".")
        if parent in sys.modules:  # which ``from parent import own`` asks first
            vars(sys.modules[parent]).pop(own, None)
    if old:
        importlib.invalidate_caches()


def _is_outdated(name: str, version: ModuleVersion) -> bool:
    if name not in sys.modules:
        return False
    known = _versions.get(name)
    return version.changed > STARTED if known is None else known != version
