"""Speeds: engines timed beside the teacher's own graph. The weights decide nothing here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from attar.models.task import load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import CodeName, Device, Facts, Stage
from attar.proof.artifacts import Speeds
from attar.proof.comparison.timing import MIN_ROUNDS
from attar.proof.estimates import statistics
from attar.proof.ledger.ledger_json import to_json
from attar.proof.ledger.speeds import EngineSpeed, EngineSpeeds
from attar.stages.artifacts import Engine, Model, OnnxModel
from attar.stages.choose.trial import SPLIT
from attar.stages.measure.bench import Bench, OptimizeFor, TimingRun, choose_timed_batch

REFERENCE = "reference"
MOST_ENGINES, MOST_BYTES = 64, 10**9
"""Engines, and bytes of their files, that are open together with the reference."""


class TimeEngines(Stage[Speeds]):
    """Time engines of untrained students, all in the same rounds as the reference, as far as they
    can be open together and run on the same device; else in groups, which are timed twice, in
    opposite orders.

    Facts: an ``EngineSpeeds``.
    """

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    batch: int = Field(32, ge=1)
    """The second batch size that is timed, besides 1."""
    optimize_for: OptimizeFor = 1
    """The batch size that the speed-ups are of."""
    repeats: int = Field(200, ge=MIN_ROUNDS)
    """Timed calls of each engine at each batch size in a timing of its group."""
    seconds: float = Field(8, gt=0)
    """At most about so long for one batch size of a group."""
    device: Device = "auto"

    def run(self, out: Path, *, reference: OnnxModel, **engines: Engine) -> Facts:
        if reference.is_disabled:
            raise StageError(
                "students are timed beside the reference, the teacher's graph, and a teacher that "
                "only translates has none; search with a network as the teacher"
            )
        task = load_task(self.task)
        bench = Bench(task, task.split(SPLIT), self.batch, SPLIT, device=self.device)
        absent = {name: find_absence(engine) for name, engine in engines.items()}
        speed_batch = choose_timed_batch(self.optimize_for, self.batch)
        timed = {name: engine for name, engine in engines.items() if absent[name] is None}
        runs = [
            bench.times({REFERENCE: reference, **group}, self.repeats, self.seconds)
            for group in order_groups(group_by_device(timed))
        ]
        speeds = {
            name: EngineSpeed(why)
            if why is not None
            else describe_speed(runs, name, engines[name].size, speed_batch)
            for name, why in absent.items()
        }
        return dict(to_json(EngineSpeeds(speeds, *summarize_reference(runs))))


def find_absence(engine: Engine) -> str | None:
    return engine.refused or engine.why_not_run


def group_by_device(engines: Mapping[str, Engine]) -> list[dict[str, Model]]:
    """Return groups of engines that run on one device, where the reference runs beside them."""
    devices: dict[str, dict[str, Engine]] = {}
    for name, engine in engines.items():
        devices.setdefault(engine.find_device("auto"), {})[name] = engine
    return [group for each in devices.values() for group in group_engines(each)]


def group_engines(engines: Mapping[str, Engine]) -> list[dict[str, Model]]:
    """Return groups of engines that can be open together, in their order."""
    groups: list[dict[str, Model]] = []
    room = 0
    for name, engine in engines.items():
        room -= engine.size
        if not groups or room < 0 or len(groups[-1]) == MOST_ENGINES:
            groups.append({})
            room = MOST_BYTES - engine.size
        groups[-1][name] = engine
    return groups


def order_groups(groups: Sequence[dict[str, Model]]) -> list[dict[str, Model]]:
    """Return the groups as they are timed. Of two or more each is timed twice, so that what else
    the machine does, and its changes, meet all alike."""
    return [*groups, *reversed(groups)] if len(groups) > 1 else [*groups]


def describe_speed(
    runs: Sequence[TimingRun], name: str, size: int, speed_batch: int
) -> EngineSpeed:
    """Return what an engine takes in all runs that it is part of."""
    own = [run.seconds for run in runs if name in run.seconds]
    ratios = np.concatenate(
        [each[REFERENCE][speed_batch] / each[name][speed_batch] for each in own]
    )
    times = {batch: [each[name][batch] for each in own] for batch in own[0][name]}
    medians = {batch: float(np.median(np.concatenate(each))) * 1e6 for batch, each in times.items()}
    bounds = statistics.bound_median(ratios)
    return EngineSpeed(None, medians, size, float(np.median(ratios)), bounds)


def summarize_reference(
    runs: Sequence[TimingRun],
) -> tuple[dict[int, float], dict[int, float]]:
    """Return what the reference takes in microseconds, the median of its medians in all runs, and
    how many times as large the largest of them is as the smallest; by batch size.

    Of two devices the first counts, and each has a spread of its own.
    """
    found: dict[int, dict[str, list[float]]] = {}
    for run in runs:
        device = run.devices[REFERENCE]
        for batch, latency in run.summarize_latency(REFERENCE).items():
            found.setdefault(batch, {}).setdefault(device, []).append(latency.p50)
    medians = {batch: float(np.median(next(iter(own.values())))) for batch, own in found.items()}
    spreads = {
        batch: max(max(p50) / min(p50) for p50 in own.values()) for batch, own in found.items()
    }
    return medians, spreads
