"""Recovers failed engines: they are probed, and opened again after more failures. If that does not
help, the server counts as dead."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attar.serving.models.model import LoadedBundle
from attar.serving.models.repository import Repository

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PROBE_SECONDS = 1.0
"""Interval between probes of a failed engine."""
LOOKS = 3
"""Number of looks with new failures, and no answer in between, after which an engine is opened
anew; as many more for each time that this did not help."""
REOPENS, RECENT_SECONDS = 3, 600.0
"""Number of times, and the seconds within which, an engine is opened anew before the server counts
as dead: then only another process can help."""
log = logging.getLogger(__name__)


@dataclass
class FailureHistory:
    """The failures of one bundle's engine."""

    failures: int = 0
    """Failures in a row at the last look."""
    looks: int = 0
    """Number of looks that found new failures."""


class Recovery:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._reopened: dict[tuple[str, str], list[float]] = {}
        """For each name and version, when its engines were opened anew."""
        self._histories: dict[tuple[str, str], FailureHistory] = {}
        self._outcomes: Counter[str] = Counter({"opened": 0, "failed": 0})

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            given_up = [await self._mend(served) for served in self._repository.list_loaded()]
            if any(given_up) and self._repository.live:
                log.error(
                    "an engine hangs, or fails although it was opened anew; only another process "
                    "may help, so liveness fails"
                )
            self._repository.live = not any(given_up)

    async def _mend(self, served: LoadedBundle) -> bool:
        """Take the next step to recover a bundle; return whether there is none left."""
        key, failures = (served.name, served.version), self._count_failures(served)
        if failures is None:
            return True
        if not failures:
            self._histories.pop(key, None)
            return False
        history, tried = (
            self._histories.setdefault(key, FailureHistory()),
            self._count_reopened(served),
        )
        history.looks += failures > history.failures
        history.failures = failures
        repeatedly = history.looks >= LOOKS * (1 + tried)
        if repeatedly and tried < REOPENS:
            await self._reopen(served)
            del self._histories[key]
        else:
            served.batcher.probe_failed()
        return repeatedly and tried >= REOPENS

    def _count_failures(self, served: LoadedBundle) -> int | None:
        """Return the failures in a row; 0 for what was replaced while another bundle was mended,
        and None for an engine that hangs: nothing ends its thread."""
        if served not in self._repository.list_loaded():
            return 0
        return None if served.hangs else served.batcher.failures

    def _count_reopened(self, served: LoadedBundle) -> int:
        """Return how often it was opened anew lately; what is older is forgotten."""
        now, key = asyncio.get_running_loop().time(), (served.name, served.version)
        recent = [moment for moment in self._reopened.get(key, ()) if now - moment < RECENT_SECONDS]
        self._reopened[key] = recent
        return len(recent)

    async def _reopen(self, served: LoadedBundle) -> None:
        self._reopened[served.name, served.version].append(asyncio.get_running_loop().time())
        log.warning("the engine of %s fails again and again and is opened anew", served.name)
        try:
            await self._repository.reopen(served)
        except Exception:
            self._outcomes["failed"] += 1
            log.exception("the engine of %s could not be opened anew", served.name)
            return
        self._outcomes["opened"] += 1

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        reopens = CounterMetricFamily(
            "attar_engine_reopens",
            "Engines that had failed again and again and were opened anew.",
            labels=["outcome"],
        )
        for outcome, count in self._outcomes.items():
            reopens.add_metric([outcome], count)
        yield reopens
