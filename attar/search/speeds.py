"""Speeds of variants: each is built untrained and timed, since weights do not decide a speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar.pipeline.core.errors import StageError
from attar.pipeline.core.graph import Pipeline, SlotBinding, is_candidate
from attar.pipeline.core.stage import Stage
from attar.pipeline.run import Record, Run
from attar.proof.ledger.ledger_json import get_adapter
from attar.proof.ledger.speeds import EngineSpeed, EngineSpeeds
from attar.recipes.workspace import Workspace
from attar.search.recipe_search import RecipeSearch, get_student
from attar.search.store_failures import check_store_failure
from attar.search.variant import Variant
from attar.stages.choose.speeds import REFERENCE, TimeEngines
from attar.stages.distill.untrained import Untrained
from attar.stages.measure.stage import Measure
from attar.stages.optimize.stage import Optimize

SHARED = ("teacher", REFERENCE, "answers")
"""Slots that all variants have in common."""
OWN = ("student", "onnx", "calibration")
TIMED = "search.speeds"
Show = Callable[[Record], None]


@dataclass(frozen=True)
class VariantSpeeds:
    """The engines of one variant."""

    variant: Variant
    engines: Mapping[str, EngineSpeed]
    """By candidate."""
    batch: int
    """The batch size that decides."""
    error: str | None = None
    """Why it cannot be built."""

    @property
    def timed(self) -> dict[str, EngineSpeed]:
        return {name: engine for name, engine in self.engines.items() if engine.why is None}

    @property
    def best(self) -> tuple[str, EngineSpeed] | None:
        """The fastest candidate, with its name."""
        return max(self.timed.items(), key=lambda item: item[1].speedup, default=None)

    @property
    def speed(self) -> float:
        """The speedup of the fastest candidate; 0 if none was timed."""
        return self.best[1].speedup if self.best else 0.0

    @property
    def why(self) -> str:
        """Why none of its candidates was timed."""
        reasons = dict.fromkeys(engine.why for engine in self.engines.values() if engine.why)
        return self.error or "; ".join(map(str, reasons))


@dataclass(frozen=True)
class Timing:
    variants: Sequence[VariantSpeeds]
    reference_p50: float | None
    """The teacher's own graph at the batch size that decides, in microseconds; None if no engine
    was timed."""
    reference_spread: float = 1.0
    """How many times as long that graph took beside some engines as beside others."""


def make_shared(search: RecipeSearch, show: Show) -> None:
    """Make what all variants have in common. Raises StageError."""
    base = search.open([])
    slots = {name: base.recipe.pipeline.slots[name] for name in SHARED}
    check_records(walk(base, slots, list(slots), show))


def time_variants(search: RecipeSearch, show: Show) -> Timing:
    """Build every variant that is not ruled out, untrained, and time all of them beside the
    reference.

    Raises StageError if the teacher, the reference or the timing fails, and if no variant can be
    timed; StoreError if the store fails.
    """
    base = search.open([])
    slots = {name: base.recipe.pipeline.slots[name] for name in SHARED}
    engines: dict[str, dict[str, str]] = {}
    fit = [variant for variant in search.variants if variant.name not in search.ruled_out]
    for variant in fit:
        own = bind_untrained(search, variant)
        slots |= own
        ends = [slot for slot in own if slot.endswith(".engine")]
        engines[variant.name] = {slot: slot.split(".")[2] for slot in ends}
    records = {record.slot: record for record in walk(base, slots, list(slots), show)}
    check_records(records[slot] for slot in SHARED)
    built = [slot for own in engines.values() for slot in own if records[slot].key is not None]
    timed = time_engines(base, search.measure, slots, built, show)
    variants = [
        VariantSpeeds(
            variant,
            select_engines(engines.get(variant.name, {}), timed),
            search.speed_batch,
            search.ruled_out.get(variant.name) or find_error(variant, records),
        )
        for variant in search.variants
    ]
    check_timed([each for each in variants if each.variant in fit])
    batch = search.speed_batch
    return Timing(variants, timed.reference_p50.get(batch), timed.reference_spread.get(batch, 1.0))


def bind_untrained(search: RecipeSearch, variant: Variant) -> dict[str, SlotBinding]:
    """Return the slots of a variant from its untrained student to its engines, as
    ``search.v3.c1.engine``."""
    bound = search.open_trial(variant).recipe.pipeline.slots
    own = [slot for slot in bound if slot in OWN or is_candidate(slot)]
    names = {
        slot: f"search.{variant.name}.{slot.removeprefix(search.target + '.')}" for slot in own
    }
    untrained = Untrained.create_from(get_student(bound))
    renamed = {names["student"]: SlotBinding(untrained, {})}
    for slot in own[1:]:
        inputs = {name: names.get(source, source) for name, source in bound[slot].inputs.items()}
        stage = drop_floor(bound[slot].stage)
        renamed[names[slot]] = replace(bound[slot], stage=stage, inputs=inputs, keep=None)
    return renamed


def drop_floor(stage: Stage[Any]) -> Stage[Any]:
    """Return the stage without what compares its result with the teacher's answers: an untrained
    network is not like the teacher in any precision."""
    return stage.model_copy(update={"floor": 0.0}) if isinstance(stage, Optimize) else stage


def check_timed(built: Sequence[VariantSpeeds]) -> None:
    """Raises StageError with the first reason if no engine of any variant was timed."""
    if all(each.best is None for each in built):
        title, why = built[0].variant.title, built[0].why
        raise StageError(f"none of {len(built)} variants could be built and timed; {title}: {why}")


def walk(
    base: Workspace, slots: Mapping[str, SlotBinding], wanted: list[str], show: Show
) -> Iterator[Record]:
    run = Run(Pipeline(slots), base.store, base.run.code, f"{base.recipe.name}-search")
    for record in run.walk(wanted):
        if record.status != "reused":
            show(record)
        check_store_failure(record)
        yield record


def check_records(records: Iterable[Record]) -> None:
    """Raises StageError for the first slot that broke."""
    for record in records:
        if record.error:
            raise StageError(record.error) from record.cause


def time_engines(
    base: Workspace,
    measure: Measure,
    slots: Mapping[str, SlotBinding],
    built: list[str],
    show: Show,
) -> EngineSpeeds:
    """Return the speed of each of these slots' engines, by slot."""
    stage = TimeEngines(
        task=measure.task,
        batch=measure.batch,
        optimize_for=measure.optimize_for,
        repeats=measure.repeats,
        device=measure.device,
    )
    inputs = {slot.replace(".", "_"): slot for slot in built}
    timed = {**slots, TIMED: SlotBinding(stage, {REFERENCE: REFERENCE, **inputs})}
    records = list(walk(base, timed, Pipeline(timed).up_to({TIMED}), show))
    check_records(records)
    speeds: EngineSpeeds = get_adapter(EngineSpeeds).validate_python(records[-1].facts)
    return replace(speeds, engines={slot: speeds.engines[name] for name, slot in inputs.items()})


def select_engines(candidates: Mapping[str, str], timed: EngineSpeeds) -> dict[str, EngineSpeed]:
    """Return the engines that were built, by candidate. ``candidates`` are named by slot."""
    found = timed.engines
    return {name: found[slot] for slot, name in candidates.items() if slot in found}


def find_error(variant: Variant, records: Mapping[str, Record]) -> str | None:
    """Return why the first slot of a variant that broke did."""
    own = (record for slot, record in records.items() if slot.startswith(f"search.{variant.name}."))
    return next((record.error for record in own if record.error), None)
