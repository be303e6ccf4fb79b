"""Package: what was proven goes into one folder that needs neither torch nor the code that made
it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
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
    EngineRequirements,
    Golden,
    Manifest,
    Origin,
    StoredInput,
    StoredOutput,
)
from attar.bundle.page import render_report
from attar.bundle.steps import ship_output_steps, ship_steps
from attar.bundle.stored_verdict import StoredVerdict, has_teacher_gate
from attar.bundle.verified import locate_manifest
from attar.models.postprocess.known import OutputSteps
from attar.models.preprocess.known import Steps
from attar.models.task import Arrays, Task, Tensor, load_task
from attar.pipeline.core.errors import GateError, StageError
from attar.pipeline.core.stage import Artifact, CodeName, Facts, Stage
from attar.proof.artifacts import Bundle, Evidence, Verdict
from attar.proof.verdicts.verdict_json import gates_from_json
from attar.stages.artifacts import Engine, OnnxModel
from attar.stages.package.golden_requests import make_golden

NEVER_NEEDED = ("torch", "onnx", "onnxscript", "sklearn", "jinja2", "matplotlib")
"""What only training has; the child process that reopens the bundle cannot import them."""


class Package(Stage[Bundle]):
    """Facts: ``name``, ``verdict``, ``bytes`` and ``golden`` (``requests``, ``tolerance``).

    The layout is described in ``attar.bundle.opening``. The bundle of an engine that was not run
    here is unfinished: it has the graph's answers for the engine's, and the engine itself only
    where it could be built.
    """

    bound_to_machine: ClassVar[bool] = True

    task: CodeName
    name: str = Field("bundle", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """How it calls itself, in the manifest and to Triton."""
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
    ) -> Facts:
        """Raises GateError for a verdict that is ``failed`` or ``undecided``, or that promises
        nothing of the engine against the teacher, StageError when the evidence is of something
        else, or the engine does not repeat what was measured."""
        refuse_unproven(verdict.facts)
        check_evidence(evidence, {"onnx": onnx, "model": model, "engine": engine})
        task = load_task(self.task)
        copy_graphs(model, out / "graphs", model.facts["graphs"])
        copy_graphs(onnx, out / "reference", onnx.answering_graphs)
        if engine.facts["files"]:
            folder = out / "engines" / engine.facts["runtime"]
            copy_graphs(engine, folder, engine.answering_graphs)
        steps = ship_steps(task.preprocess, out)
        output_steps = ship_output_steps(task.postprocess, out)
        hop = find_last_run(engine.facts)
        last = engine if hop == "engine" else model
        golden = make_golden(task, hop, last, evidence, self.tolerance)
        save_file(golden, out / "golden.safetensors")
        made = {
            "onnx": onnx,
            "model": model,
            "engine": engine,
            "evidence": evidence,
            "verdict": verdict,
        }
        manifest = self._manifest(
            task, engine.answering_graphs, (steps, output_steps), golden, made
        )
        (out / "manifest.json").write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        (out / "README.md").write_text(render_card(manifest), encoding="utf-8")
        (out / "report.html").write_text(render_report(self.name, made), encoding="utf-8")
        triton.write_repository(
            out / "triton", manifest, out, load_requests(out, locate_manifest(manifest, out))
        )
        checksums.write_checksums(out)
        reopen_bundle(out, unfinished=manifest.unfinished)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        return {
            "name": self.name,
            "verdict": verdict.facts["verdict"],
            "bytes": size,
            "golden": manifest.golden.model_dump(),
        }

    def _manifest(
        self,
        task: Task,
        graphs: Sequence[str],
        steps: tuple[Steps, OutputSteps],
        golden: Arrays,
        made: Mapping[str, Artifact],
    ) -> Manifest:
        input_steps, output_steps = steps
        verdict, ledger, engine = (
            made["verdict"].facts,
            made["evidence"].facts,
            made["engine"].facts,
        )
        return Manifest(
            name=self.name,
            task=self.task,
            inputs={name: describe_input(tensor) for name, tensor in task.inputs.items()},
            outputs={
                name: StoredOutput(
                    dtype=str(golden[f"{find_last_run(engine)}.{name}"].dtype),
                    axes=output.axes,
                    kind=output.kind,
                )
                for name, output in task.outputs.items()
            },
            ranges=task.ranges,
            preprocess=input_steps,
            postprocess=output_steps,
            labels=task.classes,
            graphs=graphs,
            engine=describe_requirements(engine),
            golden=Golden(requests=len(next(iter(golden.values()))), tolerance=self.tolerance),
            verdict=StoredVerdict.model_validate(verdict),
            ledger=ledger,
            lineage=build_lineage(made),
            not_run_here=engine["why"],
        )


def describe_input(tensor: Tensor) -> StoredInput:
    high = tensor.high if tensor.is_integer else None
    return StoredInput(dtype=np.dtype(tensor.dtype).name, axes=tensor.axes, high=high)


def find_last_run(engine: Facts) -> str:
    """The hop whose answers are the bundle's: where the engine was not run here, that of the graph
    it is built from."""
    return "model" if engine["why"] else "engine"


def refuse_unproven(verdict: Facts) -> None:
    """Raises GateError unless something was promised of the engine, and everything promised was
    kept as far as it was run."""
    kept = verdict["verdict"] in ("passed", "not run here")
    if kept and has_teacher_gate(gates_from_json(verdict["gates"])):
        return
    if kept:
        raise GateError(
            "not packaged: nothing is promised of the engine against the teacher, so nothing is "
            "known of what would be shipped; add score_drop, correlation, cosine, agreement or kdl "
            "to [gates]"
        )
    if verdict["verdict"] == "failed":
        outside = (
            f"{-verdict['margin']:.4g} outside; improve {verdict['first_broken']}, or change the "
            "promise in [gates]"
        )
        raise GateError(f"not packaged: {verdict['summary']}, {outside}")
    raise GateError(f"not packaged: {verdict['summary']}. Only what was proven is shipped")


def check_evidence(evidence: Evidence, packed: Mapping[str, Artifact]) -> None:
    """Raises StageError for what is packed and is not, byte for byte, what was measured."""
    for name, artifact in packed.items():
        measured = evidence.facts["lineage"][name]["digest"]
        if measured != artifact.digest:
            raise StageError(
                f"the evidence is of another {name} ({measured[:12]}) than the one to be packaged "
                f"({artifact.digest[:12]}); measure again"
            )


def copy_graphs(model: OnnxModel, folder: Path, graphs: Sequence[str]) -> None:
    """Copy the files of these graphs, with their external data."""
    folder.mkdir(parents=True)
    for name in graphs:
        for path in sorted(model.root.glob(f"{name}.*")):
            shutil.copyfile(path, folder / path.name)


def describe_requirements(engine: Facts) -> EngineRequirements:
    asked = engine["asked"]
    return EngineRequirements(
        runtime=engine["runtime"],
        version=engine["runtime_version"],
        provider=engine["provider"],
        threads=engine["threads"],
        precision=engine["precision"],
        machine=engine["machine"],
        profile={axis: tuple(sizes) for axis, sizes in asked["profile"].items()},
        options=asked["options"],
    )


def build_lineage(made: Mapping[str, Artifact]) -> dict[str, Origin]:
    """Every key from the teacher on; facts only of what is not told elsewhere in the manifest."""
    earlier = {name: Origin(**each) for name, each in made["evidence"].facts["lineage"].items()}
    told = ("evidence", "verdict")
    given = {
        name: Origin(key=a.key, digest=a.digest, facts={} if name in told else a.facts)
        for name, a in made.items()
    }
    return earlier | given


def reopen_bundle(bundle: Path, *, unfinished: bool) -> None:
    """Check the bundle in a process of its own that cannot import torch or user code. Raises
    StageError with what it said."""
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
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # attar's home and no other
    command = [sys.executable, "-P", "-c", called, str(bundle)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        said = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        raise StageError(f"the bundle cannot be opened without torch: {said[-1]}")
