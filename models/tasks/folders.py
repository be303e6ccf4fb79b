"""Where data that are not part of attar lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def places(name: str, *installed: Path) -> list[Path]:
    """Where the folder ``name`` is looked for, ``installed`` being where a system puts it; ``fetch`` writes to the last one."""
    given = os.environ.get("ATTAR_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    chosen = [Path(given), Path(given) / name] if given else []
    return [*chosen, *installed, Path("data").absolute() / name, cache / "attar" / name]


def first(folders: list[Path], whole: Callable[[Path], bool]) -> Path | None:
    """The first that has all that it must have."""
    return next((folder for folder in folders if whole(folder)), None)
