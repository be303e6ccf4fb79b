"""Places on this machine where data that are not part of attar may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from attar.models.splits.cache import find_cache_folder
from attar.pipeline.core.errors import StageError


@dataclass(frozen=True)
class Home:
    """A data folder: the first of several places that is complete."""

    name: str
    is_complete: Callable[[Path], bool]
    advice: str
    """The message if no place is complete; ``{looked}`` stands for the places."""
    installed: tuple[Path, ...] = ()
    """Where a system package installs it."""

    def places(self) -> list[Path]:
        """Return the places in order; ``fetch`` writes to the last one."""
        given = os.environ.get("ATTAR_DATA")
        chosen = [Path(given), Path(given) / self.name] if given else []
        return [
            *chosen,
            *self.installed,
            Path("data").absolute() / self.name,
            find_cache_folder() / self.name,
        ]

    def find_complete(self) -> Path | None:
        return find_first(self.places(), self.is_complete)

    def find(self) -> Path:
        """Return the first complete place. Raises StageError if there is none."""
        folder = self.find_complete()
        if folder is None:
            raise StageError(self.advice.replace("{looked}", ", ".join(map(str, self.places()))))
        return folder


def find_first(folders: Iterable[Path], whole: Callable[[Path], bool]) -> Path | None:
    """Return the first complete folder."""
    return next((folder for folder in folders if whole(folder)), None)
