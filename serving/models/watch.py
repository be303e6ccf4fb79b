"""Watches the folders of bundles, and loads a bundle again when it has changed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from attar.bundle.checksums import Stamp, read_stamp
from attar.pipeline.core.errors import InvalidBundleError
from attar.serving.core.errors import NotFoundError
from attar.serving.models.repository import Repository
from attar.serving.models.sources import BundleSources, list_bundles

GONE_LOOKS = 2
"""Looks in a row without the folder of a bundle before it counts as removed, as replacing one takes
a moment."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 600.0
"""Pauses before a bundle that failed is loaded again unchanged; each is twice the one before."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadAttempt:
    """An attempt to load one content of a bundle."""

    stamp: Stamp
    began: float
    pause: float
    """Seconds until the next attempt."""


class Watcher:
    """Loads changed bundles.

    One that is invalid, for example while it is copied, is tried again after its next change, and
    sometimes unchanged. Until then the old one is served.
    """

    def __init__(self, repository: Repository, seconds: float) -> None:
        self.repository, self.seconds = repository, seconds
        self._seen: dict[str, Stamp] = {}
        self._gone: Counter[str] = Counter()
        self._away: set[Path] = set()
        self._attempts: dict[str, LoadAttempt] = {}

    async def remember(self) -> None:
        """Note the content before it is loaded, so that no change is missed."""
        self._seen = await asyncio.to_thread(read_stamps, self.repository.sources)

    async def run(self) -> None:
        """Look at intervals. A look finds all changes since the last one, even after a restart."""
        while True:
            await asyncio.sleep(self.seconds)
            await self.look()

    async def look(self) -> None:
        """Load the bundles that changed since the last look, and unload the removed ones."""
        sources, seen = self.repository.sources, self._seen
        self._note_away(await asyncio.to_thread(find_away, sources))
        now = await asyncio.to_thread(read_stamps, sources)
        for name in [name for name in now if now[name] != seen.get(name)]:
            if not self._begin_attempt(name, now[name]):
                continue
            with suppress(InvalidBundleError, NotFoundError):  # the repository has logged it
                await self.repository.load(name)
                seen[name] = now[name]
                del self._attempts[name]
        removed = await asyncio.to_thread(find_removed, sources, self.repository.list_names())
        self._gone = Counter({name: self._gone[name] + 1 for name in removed})
        for name in [name for name, looks in self._gone.items() if looks >= GONE_LOOKS]:
            seen.pop(name, None)
            self._attempts.pop(name, None)
            log.warning("the folder of %s was removed", name)
            with suppress(NotFoundError):  # it was unloaded just now
                await self.repository.unload(name)

    def _begin_attempt(self, name: str, stamp: Stamp) -> bool:
        """Whether to load a bundle now. One that failed as it is now is tried again, ever later."""
        now, last = monotonic(), self._attempts.get(name)
        if last is None or last.stamp != stamp:
            self._attempts[name] = LoadAttempt(stamp, now, RETRY_SECONDS)
            return True
        if now < last.began + last.pause:
            return False
        self._attempts[name] = LoadAttempt(stamp, now, min(2 * last.pause, LONGEST_RETRY_SECONDS))
        return True

    def _note_away(self, away: set[Path]) -> None:
        for root in away - self._away:
            log.warning(
                "%s holds no bundle any more, or is away; what was loaded from it is still served",
                root,
            )
        for root in self._away - away:
            log.info("%s is back", root)
        self._away = away


def read_stamps(sources: BundleSources) -> dict[str, Stamp]:
    """Return the stamp of every bundle whose folder can be read at the moment."""
    made = {}
    for name in sources.list_names():
        try:
            made[name] = frozenset[Any]().union(*map(read_stamp, sources.find_paths(name)))
        except (NotFoundError, FileNotFoundError):
            continue  # it went away meanwhile; the next look finds out whether for good
        except OSError as error:
            log.warning("%s cannot be watched at the moment: %s", name, error)
    return made


def find_away(sources: BundleSources) -> set[Path]:
    """Return the folders of bundles that hold none, which at the start they did."""
    return {root for root in sources.roots if not list_bundles(root)}


def find_removed(sources: BundleSources, names: Sequence[str]) -> list[str]:
    """Return the names whose folder was removed from a folder of bundles.

    If one of these is away, none counts as removed. A bundle that was given by its own path never
    does.
    """
    if not sources.roots or find_away(sources):
        return []
    return [
        name
        for name in names
        if name not in sources.named and not any((root / name).exists() for root in sources.roots)
    ]
