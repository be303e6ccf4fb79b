"""Records as a run leaves them, with numbers like those of a real one, for the tests of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from attar.pipeline.core.stage import Artifact
from attar.proof.artifacts import Bundle, Choice, Evidence, Verdict
from attar.proof.report.formats.junit import render_junit
from attar.proof.report.formats.terminal import render_ledger
from tests.support.proof.report_facts import CLASSES, MACHINE, SAMPLES, absent, choice, evidence, trained, verdict

ARTIFACTS: Mapping[str, type[Artifact]] = {"Measure": Evidence, "Judge": Verdict, "Choose": Choice, "Package": Bundle}
TARGET_INPUTS = ("teacher", "answers", "reference", "student", "control", "onnx")
OPTIMIZED = {"student": "student", "onnx": "onnx", "calibration": "calibration", "answers": "answers"}
SHARED: Mapping[str, tuple[str, dict[str, str], float]] = {
    "teacher": ("Teach", {}, 118.4),
    "reference": ("Export", {"weights": "teacher"}, 3.1),
    "answers": ("Label", {"teacher": "teacher"}, 38.0),
    "student": ("Distill", {"answers": "answers"}, 96.2),
    "control": ("Control", {}, 91.5),
    "onnx": ("Export", {"weights": "student"}, 2.7),
    "calibration": ("Calibrate", {"onnx": "onnx"}, 1.2),
}


@dataclass(frozen=True)
class Made:
    """A record, without the engine that makes them."""

    slot: str
    stage: str
    status: Literal["made", "reused", "failed", "skipped"] = "made"
    reason: str = "never made"
    key: str | None = None
    path: Path | None = None
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    exit_code: int = 0
    makes: type[Artifact] = Artifact

    @property
    def target(self) -> str:
        return self.slot.partition(".")[0] if "." in self.slot else ""


def finished(slot: str, stage: str, inputs: Mapping[str, str], seconds: float, facts: Mapping[str, Any], root: Path) -> Made:
    made = {"date": "2025-03-01T12:34:56+00:00", "machine": MACHINE, "attar": "0.1.0"}
    key = (slot.encode().hex() * 16)[:64]
    makes = ARTIFACTS.get(stage, Artifact)
    return Made(slot, stage, key=key, path=root / slot, seconds=seconds, facts=facts, made=made, inputs=inputs, makes=makes)


def run_records(
    root: Path,
    targets: Sequence[str] = ("cpu",),
    classes: Sequence[str] = CLASSES,
    broken: bool = False,
    undecided: bool = False,
    production: bool = False,
    control: float = 0.9096,
) -> list[Made]:
    """A whole run.

    ``broken``: int8 lost the correlation, and the verdict says so. ``undecided``: int8 lost about as much of the score as is
    allowed. ``production``: compared with the bundle in production. ``control``: its score; 0.9096 keeps the promise.
    """
    records = [finished(slot, stage, inputs, took, trained(slot), root) for slot, (stage, inputs, took) in SHARED.items()]
    for target in targets:
        ledger = evidence(classes, broken, 0.9040 if undecided else 0.9121, production, control)
        folder = root / f"{target}.evidence"
        folder.mkdir(parents=True)
        save_hops(folder / "hops.safetensors", len(classes))
        records += suffix_records(target, ledger, root)
    if broken or undecided:
        records = [refused(r) if r.slot.endswith(".bundle") else r for r in records]
    return records


def suffix_records(target: str, ledger: Mapping[str, Any], root: Path) -> Iterator[Made]:
    """The slots that a target has to itself."""
    model, engine, proof, judged = (f"{target}.{suffix}" for suffix in ("model", "engine", "evidence", "verdict"))
    yield finished(model, "Optimize", OPTIMIZED, 2.0, {}, root)
    yield finished(engine, "Build", {"model": model}, 4.4, {}, root)
    yield finished(proof, "Measure", {n: n for n in TARGET_INPUTS} | {"engine": engine}, 24.9, ledger, root)
    yield finished(judged, "Judge", {"evidence": proof}, 0.01, verdict(ledger), root)
    yield finished(f"{target}.bundle", "Package", {"engine": engine, "verdict": judged}, 1.9, {}, root)


def with_candidates(records: Sequence[Made], root: Path) -> list[Made]:
    """The same run, had the target been chosen from five candidates, of which one was refused."""
    at = [record.slot for record in records].index("cpu.model")
    slots = [finished(f"cpu.c{n}.{name}", "Build", {}, 1.0, {}, root) for n in range(1, 6) for name in ("model", "engine")]
    slots += [finished("cpu.trials", "MeasureCandidates", {"c1": "cpu.c1.engine"}, 9.1, {}, root)]
    return [
        *records[:at],
        *slots,
        finished("cpu.choice", "Choose", {"trials": "cpu.trials"}, 0.01, choice(), root),
        *records[at:],
    ]


def skipped(record: Made, reason: str) -> Made:
    return replace(record, status="skipped", reason=reason, key=None, path=None, seconds=0.0, facts={}, made={})


def refused(record: Made) -> Made:
    """A bundle that its verdict forbids."""
    error = f"{record.slot}: correlation is broken at model, by -0.0068; nothing is packaged"
    return replace(skipped(record, "never made"), status="failed", error=error, exit_code=3)


def broke(records: Sequence[Made], slot: str, error: str) -> list[Made]:
    """The same run, had this slot failed: what comes after it is skipped."""
    at = [record.slot for record in records].index(slot)
    failed = replace(skipped(records[at], "the code of train.py changed"), status="failed", error=error, seconds=3.2, exit_code=1)
    return [*records[:at], failed, *(skipped(record, f"depends on {slot}") for record in records[at + 1 :])]


def changed(records: Sequence[Made], slot: str, **facts: object) -> list[Made]:
    return [replace(r, facts={**r.facts, **facts}) if r.slot == slot else r for r in records]


def hop_rows(records: Sequence[Made]) -> list[dict[str, Any]]:
    """Return the JSON of the first target's hops."""
    return next([*record.facts["hops"]] for record in records if record.makes is Evidence)


def gate_rows(records: Sequence[Made]) -> list[dict[str, Any]]:
    """Return the JSON of the first target's gates."""
    return next([*record.facts["gates"]] for record in records if record.slot == "cpu.verdict")


def with_gate(records: Sequence[Made], hop: str, gate: str, **facts: object) -> list[Made]:
    """Return the same run, had this gate had another limit or other evidence."""
    rows = gate_rows(records)
    assert any((row["hop"], row["gate"]) == (hop, gate) for row in rows)
    gates = [{**row, **facts} if (row["hop"], row["gate"]) == (hop, gate) else row for row in rows]
    return changed(records, "cpu.verdict", gates=gates)


def with_wide_bounds(records: Sequence[Made], hop: str, gate: str) -> list[Made]:
    """Return the same run, had this gate's bounds left it undecided."""
    row = next(row for row in gate_rows(records) if (row["hop"], row["gate"]) == (hop, gate))
    ends = (row["limit"], row["measured"])
    return with_gate(records, hop, gate, bounds=[min(ends) - 0.1, max(ends) + 0.1])


def without_engine(records: Sequence[Made]) -> list[Made]:
    """The same run where the engine could not run on this machine."""
    why = "needs a GPU that this machine lacks"
    hops = [absent(hop, why) if hop["hop"] == "engine" else hop for hop in hop_rows(records)]
    nothing = dict.fromkeys(("measured", "bounds", "samples", "note"))
    gates = [{**row, **nothing} if row["hop"] == "engine" else row for row in gate_rows(records)]
    records = changed(records, "cpu.evidence", hops=hops, speedup={"bounds": {}, "rounds": 0})
    return changed(records, "cpu.verdict", verdict="not run here", summary="not run here: engine", gates=gates)


def printed(records: Sequence[Made], width: int = 80) -> str:
    from rich.console import Console

    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(render_ledger(records))
    return captured.get()


def parsed(records: Sequence[Made], recipe_name: str) -> ET.Element:
    return ET.fromstring(render_junit(records, recipe_name))  # noqa: S314  # our own output


def save_hops(path: Path, classes: int) -> None:
    """Outputs of a teacher that knows the labels, and of the others, which follow it less and less."""
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)
    width = classes or 3
    labels = generator.integers(0, width, SAMPLES)
    teacher = generator.normal(0, 1.9, (SAMPLES, width)) + 6.5 * np.eye(width)[labels]
    arrays: dict[str, npt.NDArray[Any]] = {"target.label": labels if classes else teacher[:, 0]}
    name = "logits" if classes else "values"
    noises = {"teacher": 0.0, "reference": 0.0, "student": 0.8, "control": 1.4, "onnx": 0.8, "model": 0.9, "engine": 0.9}
    for hop, noise in noises.items():
        output = 0.97 * teacher + generator.normal(0, noise, teacher.shape) if noise else teacher
        arrays[f"{hop}.output.{name}"] = output.astype(np.float32)
        arrays[f"{hop}.statistics"] = (output.argmax(1) == labels).astype(np.float64)[:, None]
    save_file(arrays, path)


class ParsedPage(HTMLParser):
    """What a page holds, as far as the tests ask."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.classes: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.classes += [f"{tag} {value}" for name, value in attrs if name == "class"]

    @property
    def words(self) -> str:
        """Its text on one line."""
        return " ".join(self.text.split())

    def handle_data(self, data: str) -> None:
        self.text += data
