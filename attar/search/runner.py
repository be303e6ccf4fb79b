"""Runners: where the trainings and the timings of a search take place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attar.pipeline.core.errors import StageError
from attar.pipeline.run import Record
from attar.recipes.workspace import open_workspace
from attar.search.code_watch import CodeWatch
from attar.search.recipe_search import RecipeSearch
from attar.search.speeds import Show, Timing, time_variants
from attar.search.trial import TrialEnd, TrialPlan, run_trial
from attar.stages.slots import SLOTS


class Runner(Protocol):
    """Does the work of a search. What it returns depends on the plans alone, and not on how many
    of them are under way at once."""

    def time_variants(self, search: RecipeSearch, show: Show) -> Timing:
        """Build every variant untrained, and time all of them beside the reference. Raises
        StageError."""

    def run_trials(
        self, search: RecipeSearch, plans: Sequence[TrialPlan], show: Show
    ) -> list[TrialEnd]:
        """Return how each trial ended, in the order of the plans. Raises StoreError if the store
        failed, StageError if no trial can be compared with others any more."""

    def run_winner(self, search: RecipeSearch, file: Path, show: Show) -> list[Record]:
        """Run the winner's recipe and return its records."""


@dataclass(frozen=True)
class LocalRunner:
    """One machine, one training after the other."""

    code: CodeWatch
    """What ends the search if it changes. (Nodes of a cluster have a copy of the code.)"""

    def time_variants(self, search: RecipeSearch, show: Show) -> Timing:
        timing = time_variants(search, show)
        self.code.check()
        return timing

    def run_trials(
        self, search: RecipeSearch, plans: Sequence[TrialPlan], show: Show
    ) -> list[TrialEnd]:
        ends = []
        for plan in plans:
            self.code.check()
            ends.append(end_trial(search, plan, show))
        self.code.check()
        return ends

    def run_winner(self, search: RecipeSearch, file: Path, show: Show) -> list[Record]:
        return list(walk_winner(search, file, show))


def end_trial(search: RecipeSearch, plan: TrialPlan, show: Show) -> TrialEnd:
    try:
        return run_trial(search, plan, show)
    except StageError as error:  # a diverged loss says nothing of other variants
        return error


def walk_winner(
    search: RecipeSearch, file: Path, show: Show, name: str | None = None
) -> Iterator[Record]:
    workspace = open_workspace(str(file), SLOTS, search.store, device=search.device, name=name)
    for record in workspace.run.walk():
        show(record)
        yield record
