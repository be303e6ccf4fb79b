"""Run: walk the slots in order, reuse what the store has, make the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from attar.pipeline.core.error_context import name_slot_in_errors
from attar.pipeline.core.errors import AttarError, UnfitSettingsError
from attar.pipeline.core.graph import Pipeline, is_candidate
from attar.pipeline.core.stage import Artifact, Facts, list_fields
from attar.pipeline.keys.deciders import Keys
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.maker import ArtifactMaker
from attar.pipeline.planner import LastKeys, Plan, Planner, explain_reason
from attar.pipeline.store.store import Store

Status = Literal["made", "reused", "failed", "skipped"]


@dataclass(frozen=True)
class Record:
    """One line of a run's history. The report, the ledger, JUnit and JSON are functions of these
    and nothing else."""

    slot: str
    stage: str
    status: Status
    reason: str
    key: str | None = None
    path: Path | None = None
    seconds: float = 0.0
    """Wall time of the run that made the artifact, which may be an earlier one."""
    facts: Facts = field(default_factory=dict)
    error: str | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    exit_code: int = 0
    cause: BaseException | None = None
    makes: type[Artifact] = Artifact
    """The class of artifact that the slot's stage makes."""

    @property
    def target(self) -> str:
        """The target that the slot belongs to; "" for a slot that all targets share."""
        return self.slot.rpartition(".")[0].partition(".")[0]


class Run:
    """One walk over a pipeline. ``name`` is the recipe's: under it the store remembers the keys
    that the recipe used last."""

    def __init__(self, pipeline: Pipeline, store: Store, code: Fingerprint, name: str) -> None:
        self.pipeline, self.store, self.code = pipeline, store, code
        self.keys = Keys(store, code)
        self.last = LastKeys(store, name)
        self.planner = Planner(pipeline, store, self.keys, self.last)
        self.maker = ArtifactMaker(pipeline, store, self.keys, self.planner)
        self.checked = False

    def plan(self, slots: list[str] | None = None) -> Iterator[Plan]:
        """Yield what `walk` would do. Imports no code of the user and writes nothing."""
        yield from self.planner.plan_slots(slots or list(self.pipeline.slots))

    def walk(self, slots: list[str] | None = None) -> Iterator[Record]:
        """Make or reuse every slot. A slot that depends on a failed one is skipped; the walk goes
        on as long as one of its last slots can be reached."""
        walked = slots or list(self.pipeline.slots)
        self.checked = False
        with self.store.in_use():
            self._remember_pinned(walked)
            yield from self._walk(walked)

    def _walk(self, walked: list[str]) -> Iterator[Record]:
        done: dict[str, Artifact] = {}
        doomed: list[str] = []
        if self.planner.makes_any(walked):
            self.keys.ask_tasks()
        for slot in walked:
            inputs = self.pipeline.slots[slot].inputs.values()
            missing = [name for name in inputs if name not in done] or doomed
            if missing:
                record = self._start_record(slot, "skipped", f"without {', '.join(missing)}")
            else:
                record = self._reuse_or_make(slot, done, walked)
            if record.status == "failed" and self.pipeline.dooms(slot, walked):
                doomed = [slot]
            yield record
        self.code.remember()

    def recall(self) -> Iterator[Record]:
        """Yield records of what the store holds now. Makes nothing: a slot without an artifact is
        ``skipped``."""
        for plan in self.plan():
            if plan.artifact:
                yield self._record(plan.slot, "reused", plan.reason, plan.artifact)
            else:
                yield self._start_record(plan.slot, "skipped", plan.reason)

    def _remember_pinned(self, walked: list[str]) -> None:
        """Remember what the recipe pins, so that `attar gc` keeps it.

        Comes before anything is made: a key that leads nowhere is a mistake in the recipe.
        """
        pinned: dict[str, str] = {}
        settable: set[str] = set()
        for slot in walked:
            if (kept := self.planner.find_kept(slot)) is not None:
                pinned[slot] = kept.key
            fields = list_fields(type(self.pipeline.slots[slot].stage), "artifact")
            settable |= {f"{slot}.{name}" for name in fields}
            for name, artifact in self.planner.find_pinned(slot).items():
                pinned[f"{slot}.{name}"] = artifact.key
        self.last.replace(pinned, remove=settable - pinned.keys())

    def _check_settings(self, walked: list[str]) -> None:
        """Raises UnfitSettingsError if a stage of the walk can never do what it is set to.

        Comes before anything is made. A candidate is refused in its turn, and the others are tried.
        """
        if self.checked:
            return
        checked = [slot for slot in walked if not is_candidate(slot)]
        self.keys.drop_outdated_code(self.pipeline.slots[slot].stage for slot in checked)
        for slot in checked:
            self.pipeline.slots[slot].check_settings(slot)
        self.checked = True

    def _start_record(self, slot: str, status: Status, reason: str) -> Record:
        """Return a record without an artifact."""
        bound = self.pipeline.slots[slot]
        stage = type(bound.stage)
        return Record(
            slot, stage.__name__, status, reason, inputs=bound.inputs, makes=stage.makes()
        )

    def _record(self, slot: str, status: Status, reason: str, artifact: Artifact) -> Record:
        history = self.store.history(artifact.key)
        return replace(
            self._start_record(slot, status, explain_reason(artifact, reason)),
            key=artifact.key,
            path=self.store.folder(artifact.key),
            facts=artifact.facts,
            seconds=history["seconds"],
            made=history["made"],
        )

    def _reuse_or_make(self, slot: str, done: dict[str, Artifact], walked: list[str]) -> Record:
        status: Status = "reused"
        try:
            with name_slot_in_errors(slot):
                plan = self.planner.plan_slot(slot, done, may_import=True)
                artifact = plan.artifact
                if artifact is None:
                    self._check_settings(walked)
                    artifact, status = self.maker.make(slot, plan.deciders, done)
                artifact = self.maker.share(slot, artifact)
                self.last.replace({slot: artifact.key})
        except UnfitSettingsError:
            raise
        except AttarError as error:
            record = self._start_record(slot, "failed", "broke")
            return replace(record, error=str(error), exit_code=error.exit_code, cause=error)
        done[slot] = artifact
        return self._record(slot, status, plan.reason, artifact)
