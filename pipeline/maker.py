"""Maker: makes the artifact of one slot from those of the slots before."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from attar.pipeline import team
from attar.pipeline.core.disk import explain_full_disk
from attar.pipeline.core.errors import CorruptArtifactError, StageError, UnsupportedModelError
from attar.pipeline.core.file_fetching import use_fetch
from attar.pipeline.core.graph import Pipeline, is_candidate
from attar.pipeline.core.observation import Observations, collect_observations
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import Artifact, Facts, Stage
from attar.pipeline.core.version import VERSION
from attar.pipeline.keys import deciders as keys
from attar.pipeline.keys import machine
from attar.pipeline.keys.deciders import KeyInputs, Keys
from attar.pipeline.planner import Planner
from attar.pipeline.store.store import Store

MakingStatus = Literal["made", "reused"]
"""``reused``: another process made it while this one waited."""


class ArtifactMaker:
    """Runs the stages of a pipeline, whose inputs it verifies, and keeps what they make in the
    store. Each input is verified once."""

    def __init__(self, pipeline: Pipeline, store: Store, code_keys: Keys, planner: Planner) -> None:
        self.pipeline, self.store, self.keys, self.planner = pipeline, store, code_keys, planner
        self.verified: set[str] = set()

    def make(
        self, slot: str, deciders: KeyInputs, done: Mapping[str, Artifact]
    ) -> tuple[Artifact, MakingStatus]:
        """Make the artifact, or the refusal of a candidate, unless another process made it while
        this one waited. ``done`` has the artifacts of the slots before."""
        return self._fill(slot, deciders, partial(self._run_stage, slot, done))

    def share(self, slot: str, artifact: Artifact) -> Artifact:
        """Return the artifact as the store shares it with others."""
        with self._refuse_damaged(slot, artifact.key):
            return self.store.share(self.pipeline.slots[slot].stage.makes(), artifact)

    def _fill(
        self, slot: str, deciders: KeyInputs, fill: Callable[[Path], Facts]
    ) -> tuple[Artifact, MakingStatus]:
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
                full = explain_full_disk(payload, self.store.root)
                with full, collect_observations() as observed:
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

    def _refuse(self, slot: str, deciders: KeyInputs, reason: str) -> tuple[Artifact, MakingStatus]:
        """Store the refusal of a candidate, which is an artifact too and says why. The lock on the
        result is still held, so that who waits for it finds the refusal."""
        self.store.forget(keys.compute_key(deciders), None)
        return self._fill(slot, keys.mark_refused(deciders), lambda _: {"refused": reason})

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
            return team.get_team().run(stage, out, inputs, self.keys.code.home)

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
