"""Run: walk the slots in order, reuse what the store has, make the rest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from attar.pipeline import team
from attar.pipeline.core.error_context import name_slot_in_errors
from attar.pipeline.core.errors import (
    AttarError,
    CorruptArtifactError,
    RecipeError,
    StageError,
    StoreError,
    UnsupportedModelError,
)
from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import Artifact, Facts, list_fields
from attar.pipeline.core.store import Store
from attar.pipeline.core.version import VERSION
from attar.pipeline.keys import deciders as keys
from attar.pipeline.keys import machine
from attar.pipeline.keys.deciders import KeyInputs, Keys
from attar.pipeline.keys.fingerprint import Fingerprint

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
    """Wall time of making it, whenever that was."""
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


@dataclass(frozen=True)
class Plan:
    """What would happen to a slot: ``reuse``, ``run``, or ``wait`` for an input that has to be made
    first."""

    slot: str
    action: Literal["reuse", "run", "wait"]
    reason: str
    artifact: Artifact | None = None
    deciders: KeyInputs = field(default_factory=dict)


class Run:
    """One walk over a pipeline. ``name`` is the recipe's: under it the store remembers which keys
    were last in use."""

    def __init__(self, pipeline: Pipeline, store: Store, code: Fingerprint, name: str) -> None:
        self.pipeline, self.store, self.code = pipeline, store, code
        self.keys = Keys(store, code)
        self.note = f"recipes/{name}.json"
        self.last: dict[str, str] = store.read_note(self.note) or {}
        self.verified: set[str] = set()

    def plan(self, slots: list[str] | None = None) -> Iterator[Plan]:
        """What ``walk`` would do. Imports nothing of the user's and writes nothing."""
        done: dict[str, Artifact] = {}
        for slot in slots or list(self.pipeline.slots):
            plan = self._plan(slot, done, may_import=False)
            if plan.artifact:
                done[slot] = plan.artifact
            yield plan

    def walk(self, slots: list[str] | None = None) -> Iterator[Record]:
        """Make or reuse every slot. What depends on a failed slot is skipped; the rest goes on
        while any end can be reached."""
        walked = slots or list(self.pipeline.slots)
        with self.store.in_use():
            self._remember_pinned(walked)
            yield from self._walk(walked)

    def _walk(self, walked: list[str]) -> Iterator[Record]:
        done: dict[str, Artifact] = {}
        doomed: list[str] = []
        for slot in walked:
            inputs = self.pipeline.slots[slot].inputs.values()
            missing = [name for name in inputs if name not in done] or doomed
            without = f"without {', '.join(missing)}"
            record = (
                self._start_record(slot, "skipped", without) if missing else self._step(slot, done)
            )
            if record.status == "failed" and self.pipeline.dooms(slot, walked):
                doomed = [slot]
            self._remember(record)
            yield record
        self.code.remember()

    def recall(self) -> Iterator[Record]:
        """Records of what the store holds now; nothing is made, and what is not there is
        ``skipped``."""
        for plan in self.plan():
            if plan.artifact:
                yield self._record(plan.slot, "reused", plan.reason, plan.artifact)
            else:
                yield self._start_record(plan.slot, "skipped", plan.reason)

    def _remember(self, record: Record) -> None:
        if record.key is not None and self.last.get(record.slot) != record.key:
            self.last[record.slot] = record.key
            self.store.write_note(self.note, self.last)

    def _remember_pinned(self, walked: list[str]) -> None:
        """So that they are kept. Before anything is made, since a key that leads nowhere is a
        mistake in the recipe."""
        named = {slot: self._pinned(slot) for slot in walked}
        now = {
            f"{slot}.{name}": artifact.key
            for slot, inputs in named.items()
            for name, artifact in inputs.items()
        }
        stages = {slot: type(self.pipeline.slots[slot].stage) for slot in walked}
        settable = {slot: list_fields(stage, "artifact") for slot, stage in stages.items()}
        gone = {f"{slot}.{name}" for slot, names in settable.items() for name in names} - now.keys()
        kept = {name: key for name, key in self.last.items() if name not in gone} | now
        if kept != self.last:
            self.last = kept
            self.store.write_note(self.note, self.last)

    def _pinned(self, slot: str) -> dict[str, Artifact]:
        """The optional inputs that the recipe names by key. Raises RecipeError where one is not
        there, or of another kind."""
        bound, found = self.pipeline.slots[slot], dict[str, Artifact]()
        if bound.keep:  # it is there, and reads nothing
            return found
        for name, prefix in bound.pinned.items():
            place, kind = f"{slot}.{name} = {prefix!r}", bound.stage.inputs()[name].kind
            try:
                entry = self.store.match(prefix)
                stage = entry.record["deciders"]["stage"]
                made = self.pipeline.makes(stage)
                artifact = self.store.find(made or Artifact, entry.key)
            except StoreError as error:
                raise RecipeError(f"{place}: {error}") from error
            if not isinstance(artifact, kind):
                is_a = f"is {entry.record['slot']}, made by {stage}"
                raise RecipeError(
                    f"{place} {is_a}; it must be {kind.__name__}. `attar ls` lists keys"
                )
            found[name] = artifact
        return found

    def _start_record(self, slot: str, status: Status, reason: str) -> Record:
        """Return a record that knows of no artifact."""
        bound = self.pipeline.slots[slot]
        stage = type(bound.stage)
        return Record(
            slot, stage.__name__, status, reason, inputs=bound.inputs, makes=stage.makes()
        )

    def _step(self, slot: str, done: dict[str, Artifact]) -> Record:
        status: Status = "reused"
        try:
            with name_slot_in_errors(slot):
                plan = self._plan(slot, done, may_import=True)
                artifact = plan.artifact
                if artifact is None:
                    artifact, status = self._made(slot, plan.deciders, done)
        except AttarError as error:
            record = self._start_record(slot, "failed", "broke")
            return replace(record, error=str(error), exit_code=error.exit_code, cause=error)
        done[slot] = artifact
        return self._record(slot, status, plan.reason, artifact)

    def _record(self, slot: str, status: Status, reason: str, artifact: Artifact) -> Record:
        history = self.store.history(artifact.key)
        return replace(
            self._start_record(slot, status, explain_reason(artifact, reason)),
            key=artifact.key,
            path=artifact.root,
            facts=artifact.facts,
            seconds=history["seconds"],
            made=history["made"],
        )

    def _plan(self, slot: str, done: Mapping[str, Artifact], *, may_import: bool) -> Plan:
        plan = self._decided(slot, done, may_import=may_import)
        records = {
            name: self.store.history(artifact.key) for name, artifact in self._pinned(slot).items()
        }
        shown = [
            f"; {name} is {record['slot']} {record['key'][:12]}" for name, record in records.items()
        ]
        return replace(plan, reason=explain_reason(plan.artifact, plan.reason) + "".join(shown))

    def _decided(self, slot: str, done: Mapping[str, Artifact], *, may_import: bool) -> Plan:
        bound = self.pipeline.slots[slot]
        if bound.keep:
            entry = self.store.match(bound.keep)
            if entry.record["deciders"]["stage"] != type(bound.stage).__qualname__:
                raise RecipeError(
                    f"keep = {bound.keep!r} is an artifact of {entry.record['slot']}, which cannot "
                    "stand here"
                )
            pinned = self.store.find(type(bound.stage).makes(), entry.key)
            return Plan(slot, "reuse", f"kept: pinned to {bound.keep} by the recipe", pinned)
        missing = [name for name in bound.inputs.values() if name not in done]
        if missing:
            return Plan(slot, "wait", f"depends on {', '.join(missing)}")
        inputs = {name: done[source] for name, source in bound.inputs.items()} | self._pinned(slot)
        deciders = self.keys.deciders(bound.stage, inputs, may_import=may_import)
        if deciders is None:
            return Plan(slot, "run", "its task is new, so its data are not known yet")
        try:
            artifact = self._found(bound, deciders)
        except CorruptArtifactError as error:
            return Plan(slot, "run", f"damaged: {error}", deciders=deciders)
        if artifact:
            return Plan(slot, "reuse", "nothing that decides it changed", artifact)
        return Plan(slot, "run", self._why(slot, deciders), deciders=deciders)

    def _found(self, bound: SlotBinding, deciders: KeyInputs) -> Artifact | None:
        """What the store has of this, or of its refusal where it may be refused."""
        ways = [deciders, keys.mark_refused(deciders)] if bound.candidate else [deciders]
        found = (self.store.find(type(bound.stage).makes(), keys.compute_key(way)) for way in ways)
        return next((artifact for artifact in found if artifact), None)

    def _why(self, slot: str, deciders: KeyInputs) -> str:
        previous = None
        with contextlib.suppress(CorruptArtifactError):
            previous = self.store.record(self.last[slot]) if slot in self.last else None
        if previous is None:
            return "never made"
        differences = list(keys.list_changes(previous["deciders"], deciders))
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        return "; ".join(differences[:3]) + more or "its artifact is gone"

    def _made(
        self, slot: str, deciders: KeyInputs, done: Mapping[str, Artifact]
    ) -> tuple[Artifact, Status]:
        """The artifact; where it may be refused and is, an empty one that says why."""
        try:
            return self._make(slot, deciders, lambda payload: self._facts(slot, payload, done))
        except UnsupportedModelError as error:
            if not self.pipeline.slots[slot].candidate:
                raise
            said = str(error)
            self.store.forget(keys.compute_key(deciders), None)
            return self._make(slot, keys.mark_refused(deciders), lambda _: {"refused": said})

    def _make(
        self, slot: str, deciders: KeyInputs, fill: Callable[[Path], Facts]
    ) -> tuple[Artifact, Status]:
        stage = self.pipeline.slots[slot].stage
        kind, key = type(stage).makes(), keys.compute_key(deciders)
        shared = keys.compute_shared_key(stage, deciders)
        with self.store.making(
            key, lambda: report_progress(slot, 0, 1, "another process is making it"), shared
        ) as payload:
            with contextlib.suppress(CorruptArtifactError):  # that is why it is being made again
                if (artifact := self.store.find(kind, key)) is not None:
                    return artifact, "reused"
            started = time.perf_counter()
            try:
                facts = fill(payload)
            finally:  # what broke must not be gone on with either
                if edited := self.keys.edited(stage, deciders):
                    self.store.forget(key, shared)
            if edited:
                raise StageError(
                    f"{', '.join(edited)} changed while {slot} was being made; run the same "
                    "command again"
                )
            record = {
                "slot": slot,
                "deciders": deciders,
                "seconds": round(time.perf_counter() - started, 3),
                "made": {
                    "date": datetime.now(UTC).isoformat(timespec="seconds"),
                    "machine": machine.describe_machine(),
                    "attar": VERSION,
                },
            }
            return self.store.commit(kind, payload, key, facts, record), "made"

    def _facts(self, slot: str, payload: Path, done: Mapping[str, Artifact]) -> Facts:
        """Verify the inputs and run the stage. Raises UnsupportedModelError where a candidate reads
        what was refused."""
        bound = self.pipeline.slots[slot]
        inputs = {name: done[source] for name, source in bound.inputs.items()}
        for name, artifact in inputs.items():
            self._verify(bound.inputs[name], artifact)
            if bound.candidate and artifact.refused:
                raise UnsupportedModelError(artifact.refused)
        pinned = self._pinned(slot)
        for name, artifact in pinned.items():
            self._verify_pinned(f"{slot}.{name}", artifact)
        return team.get_team().run(bound.stage, payload, inputs | pinned, self.code.home)

    def _verify_pinned(self, place: str, artifact: Artifact) -> None:
        """It is not discarded: this recipe cannot make it anew."""
        try:
            self.store.verify(artifact)
        except CorruptArtifactError as error:
            raise StageError(
                f"{place} is damaged ({error}); name another key, or leave it out"
            ) from error

    def _verify(self, slot: str, artifact: Artifact) -> None:
        """An input's bytes are read again, once a run, before a stage relies on them."""
        if artifact.key in self.verified:
            return
        try:
            self.store.verify(artifact)
        except CorruptArtifactError as error:
            self.store.discard(artifact.key)
            raise StageError(
                f"{slot} was damaged and is discarded ({error}); run the same command again to "
                "make it anew"
            ) from error
        self.verified.add(artifact.key)


def explain_reason(artifact: Artifact | None, reason: str) -> str:
    """What became of a slot is more than why it was made: that it was refused."""
    return f"refused: {artifact.refused}" if artifact and artifact.refused else reason
