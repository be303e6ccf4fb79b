"""Speeds: engines timed beside the teacher's own graph. The weights decide nothing here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import CodeName, Facts, Stage
from attar.proof.artifacts import Speeds
from attar.proof.comparison.timing import MIN_ROUNDS
from attar.proof.estimates import statistics
from attar.proof.ledger.ledger_json import to_json
from attar.proof.ledger.speeds import EngineSpeed, EngineSpeeds
from attar.stages.artifacts import Engine, Model, OnnxModel
from attar.stages.choose.trial import SPLIT
from attar.stages.measure.bench import Bench, OptimizeFor, TimingRun, choose_timed_batch

REFERENCE = "reference"
ENGINES_AT_ONCE = 12
"""Engines that are open together with the reference, which bounds the memory."""


class TimeEngines(Stage[Speeds]):
    """Time engines of untrained students, interleaved, each in the same rounds as the reference.

    Facts: an ``EngineSpeeds``.
    """

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    batch: int = Field(32, ge=1)
    """The second batch size that is timed, besides 1."""
    optimize_for: OptimizeFor = 1
    """The batch size that the speed-ups are of."""
    repeats: int = Field(200, ge=MIN_ROUNDS)
    """Timed calls of each engine at each batch size."""
    seconds: float = Field(4, gt=0)
    """At most about so long for one batch size of one group of engines."""
    together: bool = False
    """Whether all engines are timed in the same rounds. Otherwise in groups of at most
    ``ENGINES_AT_ONCE``, in which none has one thread where another has more."""

    def run(self, out: Path, *, reference: OnnxModel, **engines: Engine) -> Facts:
        if reference.is_disabled:
            raise StageError(
                "students are timed beside the reference, the teacher's graph, and a teacher that "
                "only translates has none; search with a network as the teacher"
            )
        task = load_task(self.task)
        bench = Bench(task, task.split(SPLIT), self.batch, SPLIT)
        absent = {name: find_absence(engine) for name, engine in engines.items()}
        speed_batch = choose_timed_batch(self.optimize_for, self.batch)
        timed = [name for name in engines if absent[name] is None]
        speeds = {name: EngineSpeed(why) for name, why in absent.items() if why is not None}
        baselines: dict[bool, list[Mapping[int, float]]] = {}  # by whether they are pinned
        groups = [timed] if self.together and timed else group_engines(engines, timed)
        for names in groups:
            models: dict[str, Model] = {name: engines[name] for name in names}
            is_pinned = all(has_one_thread(engines[name]) for name in names)
            times = bench.times(
                {REFERENCE: reference, **models}, self.repeats, self.seconds, pinned=is_pinned
            )
            baselines.setdefault(is_pinned, []).append(read_medians(times, REFERENCE))
            for name in names:
                speeds[name] = describe_speed(times, name, engines[name].size, speed_batch)
        ordered = {name: speeds[name] for name in engines}
        return dict(to_json(EngineSpeeds(ordered, *summarize_groups([*baselines.values()]))))


def summarize_groups(
    baselines: Sequence[Sequence[Mapping[int, float]]],
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the median of the reference's times, and by how much they differ where it had the same
    threads, both by batch size. ``baselines``: its times in each group of engines, for each number
    of threads."""
    batches = baselines[0][0] if baselines else ()
    medians, spreads = {}, {}
    for batch in batches:
        times = [[group[batch] for group in alike] for alike in baselines]
        medians[batch] = float(np.median(times[0]))
        spreads[batch] = max(max(alike) / min(alike) for alike in times)
    return medians, spreads


def find_absence(engine: Engine) -> str | None:
    return engine.refused or engine.why_not_run


def group_engines(engines: Mapping[str, Engine], names: Sequence[str]) -> list[Sequence[str]]:
    """Return groups of at most ``ENGINES_AT_ONCE`` names: first those of engines with one thread,
    beside which the reference has one too."""
    single = [name for name in names if has_one_thread(engines[name])]
    others = [name for name in names if name not in single]
    return [
        names[start : start + ENGINES_AT_ONCE]
        for names in (single, others)
        for start in range(0, len(names), ENGINES_AT_ONCE)
    ]


def has_one_thread(engine: Engine) -> bool:
    return bool(engine.facts["threads"] == 1)


def describe_speed(times: TimingRun, name: str, size: int, batch: int) -> EngineSpeed:
    ratios = times.seconds[REFERENCE][batch] / times.seconds[name][batch]
    bounds = statistics.bound_median(ratios)
    return EngineSpeed(None, read_medians(times, name), size, float(np.median(ratios)), bounds)


def read_medians(times: TimingRun, name: str) -> dict[int, float]:
    return {batch: latency.p50 for batch, latency in times.summarize_latency(name).items()}
