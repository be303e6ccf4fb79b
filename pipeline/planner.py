"""Planner: decides for each slot whether the store has its artifact, and makes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from attar.pipeline.core.errors import (
    AttarError,
    CorruptArtifactError,
    RecipeError,
    UnknownKeyError,
)
from attar.pipeline.core.graph import Pipeline, is_candidate
from attar.pipeline.core.stage import Artifact
from attar.pipeline.keys import deciders as keys
from attar.pipeline.keys.deciders import KeyInputs, Keys
from attar.pipeline.store.entry import Entry
from attar.pipeline.store.store import Store
from attar.pipeline.store.used_keys import read_last_keys

NEW_DATA = (
    "its data have not been listed yet: the task is new, or there is a new file beside its data"
)


@dataclass(frozen=True)
class Plan:
    """What would happen to a slot: ``reuse``, ``run``, or ``wait`` for an input that must be made
    first."""

    slot: str
    action: Literal["reuse", "run", "wait"]
    reason: str
    artifact: Artifact | None = None
    deciders: KeyInputs = field(default_factory=dict)


class LastKeys:
    """The keys that a recipe used last, which the store remembers under the recipe's name."""

    def __init__(self, store: Store, recipe: str) -> None:
        self.store, self.note = store, f"recipes/{recipe}.json"
        self.keys = read_last_keys(store.read_note(self.note))

    def replace(self, keys: Mapping[str, str], remove: Iterable[str] = ()) -> None:
        """Add these keys by slot, remove others, and write the note if anything changed."""
        kept = {slot: key for slot, key in self.keys.items() if slot not in set(remove)}
        before, self.keys = self.keys, kept | dict(keys)
        if before or self.keys:
            self.store.write_note(self.note, self.keys)


class Planner:
    """Plans slots one after the other. ``done`` has the artifacts of the slots before."""

    def __init__(self, pipeline: Pipeline, store: Store, code_keys: Keys, last: LastKeys) -> None:
        self.pipeline, self.store, self.keys, self.last = pipeline, store, code_keys, last

    def plan_slots(self, slots: Iterable[str]) -> Iterator[Plan]:
        """Plan slots in their order. Imports no code of the user and writes nothing."""
        done: dict[str, Artifact] = {}
        for slot in slots:
            plan = self.plan_slot(slot, done, may_import=False)
            if plan.artifact:
                done[slot] = plan.artifact
            yield plan

    def makes_any(self, slots: Iterable[str]) -> bool:
        """Whether a walk over these slots will make an artifact, or be told of an error."""
        try:
            return any(plan.artifact is None for plan in self.plan_slots(slots))
        except AttarError:  # the walk meets it again, and names the slot
            return True

    def plan_slot(self, slot: str, done: Mapping[str, Artifact], *, may_import: bool) -> Plan:
        """Plan one slot. The reason names the artifacts that the recipe pins as its inputs."""
        plan = self._decide(slot, done, may_import=may_import)
        reason = explain_reason(plan.artifact, plan.reason)
        for name, artifact in self.find_pinned(slot).items():
            record = self.store.history(artifact.key)
            reason += f"; {name} is {record['slot']} {record['key'][:12]}"
        return replace(plan, reason=reason)

    def find_pinned(self, slot: str) -> dict[str, Artifact]:
        """Return the optional inputs that the recipe names by key.

        Raises RecipeError if one is not in the store, or is of another kind.
        """
        bound = self.pipeline.slots[slot]
        if bound.keep:  # the result itself is pinned, so no input is read
            return {}
        return {name: self._open_pinned(slot, name) for name in bound.pinned}

    def _open_pinned(self, slot: str, name: str) -> Artifact:
        bound = self.pipeline.slots[slot]
        prefix, kind = bound.pinned[name], bound.stage.inputs()[name].kind
        place = f"{slot}.{name} = {prefix!r}"
        entry, artifact = self._open_key(place, prefix)
        if not isinstance(artifact, kind):
            raise RecipeError(
                f"{place} is {describe_entry(entry)}; it must be {kind.__name__}. `attar ls` lists "
                "keys"
            )
        return artifact

    def find_kept(self, slot: str) -> Artifact | None:
        """Return the artifact that the recipe pins to a slot; None if it pins none.

        Raises RecipeError if it is not in the store, or was made by another stage.
        """
        bound = self.pipeline.slots[slot]
        if not bound.keep:
            return None
        place = f"{slot}.keep = {bound.keep!r}"
        entry, artifact = self._open_key(place, bound.keep)
        if entry.record["deciders"]["stage"] != type(bound.stage).__qualname__:
            raise RecipeError(
                f"{place} is {describe_entry(entry)}; name a key of this slot, which `attar ls` "
                "lists"
            )
        return artifact

    def _open_key(self, place: str, prefix: str) -> tuple[Entry, Artifact]:
        """Return what the recipe names by key at ``place``. Raises RecipeError if it names nothing
        that can be used, StoreError if the store fails."""
        try:
            entry = self.store.match(prefix)
            kind = self.pipeline.makes(entry.record["deciders"]["stage"]) or Artifact
            artifact = self.store.find(kind, entry.key)
        except (UnknownKeyError, CorruptArtifactError) as error:
            raise RecipeError(f"{place}: {error}") from error
        if artifact is None:  # another process has just deleted it
            raise RecipeError(f"{place} is gone; `attar ls` lists what is there")
        return entry, artifact

    def _decide(self, slot: str, done: Mapping[str, Artifact], *, may_import: bool) -> Plan:
        bound = self.pipeline.slots[slot]
        if (kept := self.find_kept(slot)) is not None:
            return Plan(slot, "reuse", f"kept: pinned to {bound.keep} by the recipe", kept)
        missing = [name for name in bound.inputs.values() if name not in done]
        if missing:
            return Plan(slot, "wait", f"depends on {', '.join(missing)}")
        inputs = {name: done[source] for name, source in bound.inputs.items()}
        inputs |= self.find_pinned(slot)
        deciders = self.keys.deciders(bound.stage, inputs, may_import=may_import)
        if deciders is None:
            return Plan(slot, "run", NEW_DATA)
        try:
            artifact = self.find_result(slot, deciders)
        except CorruptArtifactError as error:
            return Plan(slot, "run", f"damaged: {error}", deciders=deciders)
        if artifact:
            return Plan(slot, "reuse", "nothing that decides it changed", artifact)
        distrust = self.store.explain_distrust(keys.compute_key(deciders))
        reason = distrust or self._explain_change(slot, deciders)
        return Plan(slot, "run", reason, deciders=deciders)

    def find_result(self, slot: str, deciders: KeyInputs) -> Artifact | None:
        """Return the stored artifact, or the stored refusal of a candidate."""
        kind = type(self.pipeline.slots[slot].stage).makes()
        artifact = self.store.find(kind, keys.compute_key(deciders))
        if artifact is None and is_candidate(slot):
            return self.store.find(kind, keys.compute_key(keys.mark_refused(deciders)))
        return artifact

    def _explain_change(self, slot: str, deciders: KeyInputs) -> str:
        """Return what differs from the artifact that was used last."""
        previous = None
        if slot in self.last.keys:
            with contextlib.suppress(CorruptArtifactError):
                previous = self.store.record(self.last.keys[slot])
        if previous is None:
            return "never made"
        changes = list(keys.list_changes(previous["deciders"], deciders))
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        return "; ".join(changes[:3]) + more or "its artifact is gone"


def describe_entry(entry: Entry) -> str:
    return f"{entry.record['slot']}, made by {entry.record['deciders']['stage']}"


def explain_reason(artifact: Artifact | None, reason: str) -> str:
    """Return why a slot was made or reused or, if the artifact is a refusal, why it was refused."""
    return f"refused: {artifact.refused}" if artifact and artifact.refused else reason
