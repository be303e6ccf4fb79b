"""Package: what was proven goes into one folder that needs neither torch nor the code that made
it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field
from safetensors.numpy import save_file

from attar.bundle import checksums, triton
from attar.bundle.card import render_card
from attar.bundle.golden import load_requests
from attar.bundle.manifest import (
    MAX_TOLERANCE,
    PAIR_FORMAT,
    BatchEngine,
    Golden,
    Manifest,
    StoredInput,
    StoredOutput,
)
from attar.bundle.page import render_report
from attar.bundle.steps import ship_output_steps, ship_steps
from attar.bundle.stored_verdict import StoredVerdict
from attar.bundle.verified import locate_manifest
from attar.models.postprocess.known import OutputSteps
from attar.models.preprocess.known import Steps
from attar.models.task import Arrays, Task, Tensor, load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.import_path import make_child_environment
from attar.pipeline.core.stage import CodeName, Facts, Stage
from attar.proof.artifacts import Bundle, Choice, Evidence, Verdict
from attar.stages.artifacts import Engine, OnnxModel
from attar.stages.package.golden_requests import make_golden
from attar.stages.package.pair import (
    check_common_origin,
    describe_batch_engine,
    find_least_rows,
)
from attar.stages.package.proven import ProvenEngine, build_lineage, describe_requirements

NEVER_NEEDED = ("torch", "onnx", "onnxscript", "sklearn", "jinja2", "matplotlib")
"""What only training has; the child process that reopens the bundle cannot import them."""


class Package(Stage[Bundle]):
    """Facts: ``name``, ``verdict``, ``bytes`` and ``golden`` (``requests``, ``tolerance``).

    The layout is described in ``attar.bundle.opening``. The bundle of an engine that was not run
    here is unfinished: it has the graph's answers for the engine's, and the engine itself only
    where it could be built. Of a target that is to be fast at two batch sizes, both engines are in
    the bundle, unless they are the same.
    """

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    name: str = Field("bundle", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The model's name, in the manifest and for Triton."""
    tolerance: float = Field(1e-4, gt=0, le=MAX_TOLERANCE)
    """How far an engine's answers may move between two runs, relative to their largest magnitude
    (or 1)."""

    def run(
        self,
        out: Path,
        *,
        onnx: OnnxModel,
        model: OnnxModel,
        engine: Engine,
        evidence: Evidence,
        verdict: Verdict,
        single_choice: Choice | None = None,
        batch_choice: Choice | None = None,
        batch_model: OnnxModel | None = None,
        batch_engine: Engine | None = None,
        batch_evidence: Evidence | None = None,
        batch_verdict: Verdict | None = None,
    ) -> Facts:
        """Raises GateError for a verdict that is ``failed`` or ``undecided``, or that promises
        nothing of the engine against the teacher, StageError when the evidence is of something
        else, or the engine does not repeat what was measured."""
        single = ProvenEngine(onnx, model, engine, evidence, verdict)
        single.check()
        if not (batch_model and batch_engine and batch_evidence and batch_verdict):
            return self._pack(out, [single])
        batch = ProvenEngine(onnx, batch_model, batch_engine, batch_evidence, batch_verdict)
        batch.check()
        check_common_origin(single, batch)
        if batch.is_same_engine(single):
            return self._pack(out, [single])
        if single_choice is None or batch_choice is None:
            raise StageError("two engines are packaged, and not how each was chosen; give both")
        rows = find_least_rows(single_choice, batch_choice)
        return self._pack(out, [single, replace(batch, rows=rows)])

    def _pack(self, out: Path, packed: Sequence[ProvenEngine]) -> Facts:
        """Write the bundle of an engine, or of one for single samples and one for batches."""
        first, task = packed[0], load_task(self.task)
        copy_graphs(first.onnx, out / "reference", first.onnx.answering_graphs)
        for folder, proven in zip((Manifest.folder, BatchEngine.folder), packed, strict=False):
            copy_engine(proven, out / folder)
        steps = ship_steps(task.preprocess, out), ship_output_steps(task.postprocess, out)
        golden = make_golden(task, packed, self.tolerance)
        save_file(golden, out / "golden.safetensors")
        manifest = self._manifest(task, steps, golden, packed)
        (out / "manifest.json").write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        (out / "README.md").write_text(render_card(manifest), encoding="utf-8")
        made = [proven.made for proven in packed]
        (out / "report.html").write_text(render_report(self.name, made), encoding="utf-8")
        triton.write_repository(
            out / "triton", manifest, out, load_requests(out, locate_manifest(manifest, out))
        )
        checksums.write_checksums(out)
        reopen_bundle(out, unfinished=manifest.unfinished)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        return {
            "name": self.name,
            "verdict": manifest.verdict.verdict,
            "bytes": size,
            "golden": manifest.golden.model_dump(),
        }

    def _manifest(
        self,
        task: Task,
        steps: tuple[Steps, OutputSteps],
        golden: Arrays,
        packed: Sequence[ProvenEngine],
    ) -> Manifest:
        first, batch = packed[0], describe_batch_engine(packed)
        return Manifest(
            format="attar bundle 1" if batch is None else PAIR_FORMAT,
            name=self.name,
            task=self.task,
            inputs={name: describe_input(tensor) for name, tensor in task.inputs.items()},
            outputs={
                name: StoredOutput(
                    dtype=str(golden[f"{first.last_run}.{name}"].dtype),
                    axes=output.axes,
                    kind=output.kind,
                )
                for name, output in task.outputs.items()
            },
            ranges=task.ranges,
            preprocess=steps[0],
            postprocess=steps[1],
            labels=task.classes,
            graphs=first.engine.answering_graphs,
            engine=describe_requirements(first.engine.facts),
            golden=Golden(requests=len(next(iter(golden.values()))), tolerance=self.tolerance),
            verdict=StoredVerdict.model_validate(first.verdict.facts),
            ledger=first.evidence.facts,
            lineage=build_lineage(first.made),
            not_run_here=first.engine.why_not_run,
            batch=batch,
        )


def describe_input(tensor: Tensor) -> StoredInput:
    high = tensor.high if tensor.is_integer else None
    return StoredInput(dtype=np.dtype(tensor.dtype).name, axes=tensor.axes, high=high)


def copy_engine(proven: ProvenEngine, folder: Path) -> None:
    """Copy the graphs in the target's precision, and the engine if it was built."""
    engine = proven.engine
    copy_graphs(proven.model, folder / "graphs", proven.model.facts["graphs"])
    if engine.facts["files"]:
        place = folder / "engines" / engine.facts["runtime"]
        copy_graphs(engine, place, engine.answering_graphs)


def copy_graphs(model: OnnxModel, folder: Path, graphs: Sequence[str]) -> None:
    """Copy the files of these graphs, with their external data."""
    folder.mkdir(parents=True)
    for name in graphs:
        for path in sorted(model.root.glob(f"{name}.*")):
            shutil.copyfile(path, folder / path.name)


def reopen_bundle(bundle: Path, *, unfinished: bool) -> None:
    """Check the bundle in a process of its own that cannot import torch and has not imported the
    recipe's code. Raises StageError with what it said."""
    check = (
        "opening.open_unfinished(path)"
        if unfinished
        else "opening.check_bundle(path, allow_native=True)"
    )
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in NEVER_NEEDED)
    called = (
        f"import sys; {blocked}from pathlib import Path; from attar.bundle import opening; path = "
        f"Path(sys.argv[1]); {check}"
    )
    command = [sys.executable, "-P", "-c", called, str(bundle)]
    child = subprocess.run(
        command, env=make_child_environment(), capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        said = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        raise StageError(f"the bundle cannot be opened without torch: {said[-1]}")
