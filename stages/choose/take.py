"""Take: the chosen candidate becomes the target's model and engine. Later stages see no other."""

from __future__ import annotations

import shutil
from pathlib import Path

from attar.pipeline.core.stage import Artifact, Facts, Stage
from attar.pipeline.store.store import NOT_PAYLOAD
from attar.proof.artifacts import Choice
from attar.stages.artifacts import Engine, OnnxModel


class TakeModel(Stage[OnnxModel]):
    """Copy the graph of the chosen candidate. The same choice makes nothing again."""

    def run(self, out: Path, *, choice: Choice, **models: OnnxModel) -> Facts:
        return copy_artifact(out, models[choice.facts["winner"]])


class TakeEngine(Stage[Engine]):
    """Copy the engine of the chosen candidate."""

    def run(self, out: Path, *, choice: Choice, **engines: Engine) -> Facts:
        return copy_artifact(out, engines[choice.facts["winner"]])


def copy_artifact(out: Path, artifact: Artifact) -> Facts:
    """A copy of its files, and its facts."""
    shutil.copytree(
        artifact.root, out, ignore=shutil.ignore_patterns(*NOT_PAYLOAD), dirs_exist_ok=True
    )
    return artifact.facts
