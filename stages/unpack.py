"""Unpack: the bundle in production becomes a hop, so that the engine can be compared with it on the
same samples."""

from __future__ import annotations

import shutil
from collections.abc import Set
from pathlib import Path

import numpy as np
from pydantic import computed_field

from attar.bundle.manifest import EngineRequirements, Manifest
from attar.bundle.opening import open_whole
from attar.bundle.steps import ship_steps
from attar.bundle.verified import read_manifest
from attar.engines.runtimes.runtime import RUNTIMES, load_runtime
from attar.models.preprocess import describe_steps
from attar.models.preprocess.known import STEPS
from attar.models.task import Task, load_task
from attar.pipeline.core.errors import InvalidBundleError, StageError
from attar.pipeline.core.stage import CodeName, DataFile, DataFolder, Facts, Stage
from attar.stages.artifacts import Production
from attar.stages.artifacts.engine import read_build_spec


class Unpack(Stage[Production]):
    """Reads the bundle of ``--against``: its graphs, and how its engine was built of them. The
    engine itself is for the machine that built it.

    Facts: as ``Production`` says; ``{"off": true}`` where nothing is compared with.
    """

    task: CodeName
    against: DataFolder | None = None
    """A bundle's folder."""
    trusted: DataFile | None = None
    """A file of public keys in PEM, one of which must have signed that bundle."""

    @computed_field(repr=False)  # type: ignore[prop-decorator]  # of pydantic, on a property
    @property
    def lacks(self) -> str | None:
        """What this machine lacks to build or run the bundle's engine, or None.

        It counts in the key, as that of ``Build`` does: a GPU may be hidden in one run and not in
        the next. A bundle that cannot be read is refused by ``run``.
        """
        try:
            needs = read_manifest(self.against).engine if self.against else None
        except InvalidBundleError:
            return None
        if needs is None or needs.runtime not in RUNTIMES:
            return None
        spec = read_build_spec({"precision": needs.precision, **describe_engine(needs)})
        runtime = load_runtime(needs.runtime)
        return runtime.explain_unbuildable(spec) or runtime.explain_unrunnable(spec)

    def deciding(self) -> Set[str]:
        return super().deciding() if self.against else {"against"}

    def run(self, out: Path) -> Facts:
        """Raises InvalidBundleError for a bundle that is not whole or was never passed, StageError
        for one of another task."""
        if self.against is None:
            return {"off": True}
        with open_whole(self.against, trusted=self.trusted) as found:
            if wrong := find_difference(found.manifest, load_task(self.task)):
                raise StageError(f"the engine cannot be compared with {self.against}: {wrong}")
            return self._unpack(found.root, found.manifest, out)

    def _unpack(self, bundle: Path, manifest: Manifest, out: Path) -> Facts:
        for graph in sorted((bundle / "graphs").iterdir()):
            shutil.copyfile(graph, out / graph.name)
        return {
            "name": manifest.name,
            "task": self.task,
            "graphs": sorted(path.stem for path in out.glob("*.onnx")),
            "precision": manifest.engine.precision,
            "placement": manifest.lineage["model"].facts.get("placement"),
            "preprocess": STEPS.dump_python(ship_steps(manifest.preprocess, out), mode="json"),
            "parameters": manifest.lineage["model"].facts.get("parameters"),
            **describe_engine(manifest.engine),
            "lacks": self.lacks,
        }


def describe_engine(engine: EngineRequirements) -> Facts:
    """Return the facts that an engine is built by. Raises StageError for an unknown runtime."""
    load_runtime(engine.runtime)
    profile = {axis: list(sizes) for axis, sizes in engine.profile.items()}
    return {
        "runtime": engine.runtime,
        "opened_by": RUNTIMES[engine.runtime],
        "provider": engine.provider,
        "threads": engine.threads,
        "asked": {"profile": profile, "options": dict(engine.options)},
    }


def find_difference(manifest: Manifest, task: Task) -> str | None:
    """How the bundle's interface differs from the task's; None where it does not."""
    read = {name: (tensor.dtype, tensor.axes) for name, tensor in manifest.inputs.items()}
    if read != (
        wanted := {
            name: (np.dtype(tensor.dtype).name, tensor.axes) for name, tensor in task.inputs.items()
        }
    ):
        return f"its inputs are {read}, the task's {wanted}"
    given = {name: (output.kind, output.axes) for name, output in manifest.outputs.items()}
    if given != (
        asked := {name: (output.kind, output.axes) for name, output in task.outputs.items()}
    ):
        return f"its outputs are {given}, the task's {asked}"
    own_steps = describe_steps(manifest.postprocess)
    if own_steps and own_steps != describe_steps(task.postprocess):
        return (
            "its tokens are made text by other steps than the task's, so equal tokens may be other "
            "words"
        )
    if list(manifest.labels) != list(task.classes):
        return f"its classes are {', '.join(manifest.labels)}, the task's {', '.join(task.classes)}"
    return None
