"""The rolling numbers of a bundle and its shadow, and the readiness that follows from them.

The thread of the shadow alone adds samples and computes; what others read was computed before, so
no look at it depends on the size of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from time import monotonic, thread_time

from attar.models.task import Arrays, Kind
from attar.serving.core.settings import Settings
from attar.serving.observation.window import Window

PAUSE = 20
"""Numbers are computed anew after so many times what computing them took, so that they take one
part in so many of the thread's time."""


@dataclass(frozen=True)
class OutputAgreement:
    """The agreement on one output."""

    samples: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What `Window.compute_numbers` returned."""


class RollingAgreement:
    """The windows of all outputs of a bundle, and what was computed of them last."""

    def __init__(self, kinds: Mapping[str, Kind], settings: Settings) -> None:
        self.windows = {name: Window(kind, settings.shadow_window) for name, kind in kinds.items()}
        self.latest: Mapping[str, OutputAgreement] = dict.fromkeys(kinds, OutputAgreement())
        self.ready = True
        """Whether every output correlates as the setting wants; tokens agree instead."""
        self._settings, self._is_stale, self._due = settings, False, -inf

    @property
    def is_due(self) -> bool:
        """Whether samples came since the numbers were computed, and enough time has passed."""
        return self._is_stale and monotonic() >= self._due

    def add_samples(self, expected: Arrays, got: Arrays) -> None:
        """Add all outputs of a request or more, each finite, and compute if that is due."""
        for name, window in self.windows.items():
            window.add_samples(expected[name], got[name])
        self._is_stale = True
        self.compute_if_due()

    def compute_if_due(self) -> None:
        if self.is_due:
            began = thread_time()
            self.compute()
            self._due = monotonic() + PAUSE * (thread_time() - began)

    def compute(self) -> None:
        """Compute the numbers of all samples so far."""
        self._is_stale = False
        self.latest = {
            name: OutputAgreement(window.count, window.compute_numbers())
            for name, window in self.windows.items()
        }
        self.ready = self._is_close_enough()

    def _is_close_enough(self) -> bool:
        """A model that is not ready must reach a quarter of the way from the limit to 1, so that it
        does not change all the time."""
        least = self._settings.ready_correlation
        enough = min(self._settings.ready_samples, self._settings.shadow_window)
        if least is None or any(each.samples < enough for each in self.latest.values()):
            return True
        needed = least if self.ready else least + (1 - least) / 4
        deciding = [each.numbers[self.windows[name].deciding] for name, each in self.latest.items()]
        return not any(number < needed for number in deciding)
