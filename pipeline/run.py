"""Run: walk the slots in order, reuse what the store has, make the rest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from attar.pipeline import team
from attar.pipeline.core.error_context import name_slot_in_errors
from attar.pipeline.core.errors import (
    AttarError,
    CorruptArtifactError,
    StageError,
    UnfitSettingsError,
    UnsupportedModelError,
)
from attar.pipeline.core.file_fetching import use_fetch
from attar.pipeline.core.graph import Pipeline, is_candidate
from attar.pipeline.core.observation import Observations, collect_observations
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import Artifact, Facts, Stage, list_fields
from attar.pipeline.core.version import VERSION
from attar.pipeline.keys import deciders as keys
from attar.pipeline.keys import machine
from attar.pipeline.keys.deciders import KeyInputs, Keys
from attar.pipeline.keys.fingerprint import Fingerprint
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
        self.verified: set[str] = set()
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
                    run = partial(self._run_stage, slot, done)
                    artifact, status = self._make(slot, plan.deciders, run)
                with self._refuse_damaged(slot, artifact.key):
                    artifact = self.store.share(self.pipeline.slots[slot].stage.makes(), artifact)
                self.last.replace({slot: artifact.key})
        except UnfitSettingsError:
            raise
        except AttarError as error:
            record = self._start_record(slot, "failed", "broke")
            return replace(record, error=str(error), exit_code=error.exit_code, cause=error)
        done[slot] = artifact
        return self._record(slot, status, plan.reason, artifact)

    def _make(
        self, slot: str, deciders: KeyInputs, fill: Callable[[Path], Facts]
    ) -> tuple[Artifact, Status]:
        """Make the artifact, or the refusal of a candidate, unless another process made it while
        this one waited."""
        stage = self.pipeline.slots[slot].stage
        kind, key = type(stage).makes(), keys.compute_key(deciders)
        shared = keys.compute_shared_key(stage, deciders)
        with self.store.making(
            key, lambda: report_progress(slot, 0, 1, "another process is making it"), shared
        ) as payload:
            with contextlib.suppress(CorruptArtifactError):  # it is made again for that reason
                if (artifact := self.planner.find_result(slot, deciders)) is not None:
                    return artifact, "reused"
            self.keys.drop_outdated_code([])
            started = time.perf_counter()
            try:
                with collect_observations() as observed:
                    facts = fill(payload)
            except UnsupportedModelError as error:
                if not is_candidate(slot):
                    raise
                return self._refuse(slot, deciders, str(error))
            finally:  # the scratch of a stage that broke is of the old code or data too
                if edited := self.keys.edited(stage, deciders):
                    self.store.forget(key, shared)
            if edited:
                raise StageError(
                    f"{', '.join(edited)} changed while {slot} was being made; run the same "
                    "command again"
                )
            seconds = time.perf_counter() - started
            record = describe_making(slot, deciders, seconds, observed)
            return self.store.commit(kind, payload, key, facts, record), "made"

    def _refuse(self, slot: str, deciders: KeyInputs, reason: str) -> tuple[Artifact, Status]:
        """Store the refusal of a candidate, which is an artifact too and says why. The lock on the
        result is still held, so that who waits for it finds the refusal."""
        self.store.forget(keys.compute_key(deciders), None)
        return self._make(slot, keys.mark_refused(deciders), lambda _: {"refused": reason})

    def _run_stage(self, slot: str, done: Mapping[str, Artifact], out: Path) -> Facts:
        """Verify the inputs and run the stage.

        Raises UnsupportedModelError if a candidate reads an artifact that was refused.
        """
        bound = self.pipeline.slots[slot]
        inputs = {name: done[source] for name, source in bound.inputs.items()}
        for name, artifact in inputs.items():
            self._verify_input(bound.inputs[name], artifact)
            if artifact.refused and is_candidate(slot):
                raise UnsupportedModelError(artifact.refused)
        pinned = self.planner.find_pinned(slot)
        for name, artifact in pinned.items():
            self._verify_pinned(f"{slot}.{name}", artifact)
        return self._run_with_files(bound.stage, out, inputs | pinned)

    def _run_with_files(
        self, stage: Stage[Any], out: Path, inputs: Mapping[str, Artifact]
    ) -> Facts:
        """Run a stage that may ask for files of its inputs. Other processes of a team have no store
        to ask, so they find all files there."""
        if team.get_team().wire is not None:
            for artifact in inputs.values():
                self.store.fetch_files(artifact.root, "*")
        with use_fetch(self.store.fetch_files):
            return team.get_team().run(stage, out, inputs, self.code.home)

    def _verify_pinned(self, place: str, artifact: Artifact) -> None:
        with self._refuse_damaged(place, artifact.key):
            self.store.verify(artifact)

    def _verify_input(self, slot: str, artifact: Artifact) -> None:
        """Read an input's bytes once a run, before the first stage that relies on them."""
        if artifact.key not in self.verified:
            with self._refuse_damaged(slot, artifact.key):
                self.store.verify(artifact)
            self.verified.add(artifact.key)

    @contextlib.contextmanager
    def _refuse_damaged(self, place: str, key: str) -> Iterator[None]:
        """Raises StageError for an artifact that turns out to be damaged, and discards it unless
        the recipe pins it: then the recipe cannot make it again."""
        try:
            yield
        except CorruptArtifactError as error:
            bound = self.pipeline.slots.get(place)
            if bound is None or bound.keep:
                state, advice = "is damaged", "name another key, or leave it out"
            else:
                self.store.discard(key)
                state = "was damaged and is discarded"
                advice = "run the same command again to make it anew"
            raise StageError(f"{place} {state} ({error}); {advice}") from error


def describe_making(
    slot: str, deciders: KeyInputs, seconds: float, observed: Observations
) -> dict[str, Any]:
    """Return what the store records of an artifact beside its files: when, where and from what it
    was made, and what the stage observed."""
    return {
        "slot": slot,
        "deciders": deciders,
        "seconds": round(seconds, 3),
        "made": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.describe_machine(),
            "attar": VERSION,
            **observed,
        },
    }
