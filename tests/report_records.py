"""Records as a run leaves them, with numbers like those of a real one, for the tests of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from attar.pipeline.report.junit import junit
from attar.pipeline.report.target import targets
from attar.pipeline.report.terminal import ledger

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
MACHINE = {"cpu": "Example CPU @ 2.60GHz", "cores": 2, "flags": "ab12", "gpu": "none", "system": "Linux 6.1", "python": "3.11.9"}
SAMPLES = 2000
TARGET_INPUTS = ("teacher", "answers", "reference", "student", "control", "onnx")
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


def finished(slot: str, stage: str, inputs: Mapping[str, str], seconds: float, facts: Mapping[str, Any], root: Path) -> Made:
    made = {"date": "2025-03-01T12:34:56+00:00", "machine": MACHINE, "attar": "0.1.0"}
    key = (slot.encode().hex() * 16)[:64]
    return Made(slot, stage, key=key, path=root / slot, seconds=seconds, facts=facts, made=made, inputs=inputs)


def run_records(
    root: Path, targets: Sequence[str] = ("cpu",), classes: Sequence[str] = CLASSES, broken: bool = False
) -> list[Made]:
    """A whole run. ``broken``: int8 lost the correlation, and the verdict says so."""
    records = [finished(slot, stage, inputs, took, trained(slot), root) for slot, (stage, inputs, took) in SHARED.items()]
    for target in targets:
        ledger = evidence(classes, broken)
        folder = root / f"{target}.evidence"
        folder.mkdir(parents=True)
        save_hops(folder / "hops.safetensors", len(classes))
        records += suffix_records(target, ledger, root)
    if broken:
        records = [refused(r) if r.slot.endswith(".bundle") else r for r in records]
    return records


def suffix_records(target: str, ledger: Mapping[str, Any], root: Path) -> Iterator[Made]:
    """The slots that a target has to itself."""
    model, engine, proof, judged = (f"{target}.{suffix}" for suffix in ("model", "engine", "evidence", "verdict"))
    yield finished(model, "Optimize", {"onnx": "onnx", "calibration": "calibration"}, 2.0, {}, root)
    yield finished(engine, "Build", {"model": model}, 4.4, {}, root)
    yield finished(proof, "Measure", {n: n for n in TARGET_INPUTS} | {"engine": engine}, 24.9, ledger, root)
    yield finished(judged, "Judge", {"evidence": proof}, 0.01, verdict(ledger), root)
    yield finished(f"{target}.bundle", "Package", {"engine": engine, "verdict": judged}, 1.9, {}, root)


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


def without_engine(records: Sequence[Made]) -> list[Made]:
    """The same run where the engine could not run on this machine."""
    found = targets(records)[0]
    hops = [absent(hop, "needs a GPU that this machine lacks") if hop["hop"] == "engine" else hop for hop in found.hops]
    gates = [
        {**g, "measured": None, "margin": None, "verdict": "not run here"} if g["hop"] == "engine" else g for g in found.gates
    ]
    records = changed(records, "cpu.evidence", hops=hops, speedup={})
    return changed(records, "cpu.verdict", verdict="not run here", summary="not run here: engine", gates=gates)


def printed(records: Sequence[Made], width: int = 80) -> str:
    from rich.console import Console

    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(ledger(records))
    return captured.get()


def parsed(records: Sequence[Made], recipe_name: str) -> ET.Element:
    return ET.fromstring(junit(records, recipe_name))  # noqa: S314  # our own output


def trained(slot: str) -> dict[str, Any]:
    """Facts of the slots that train; nothing for the others."""
    ends = {"teacher": (0.93, 8), "student": (0.915, 8), "control": (0.909, 8)}
    if slot not in ends:
        return {}
    end, epochs = ends[slot]
    history: list[dict[str, float]] = []
    for epoch in range(1, epochs + 1):
        entry = {"epoch": epoch, "loss": round(1.9 / (epoch + 0.6) + 0.2, 4), "score": round(end - 0.16 / epoch**1.3, 4)}
        history.append(entry | ({"correlation": round(0.984 - 0.09 / epoch, 4)} if slot == "student" else {}))
    return {"history": history, "best_epoch": epochs - 1, "score": end, "parameters": 696_000 if slot == "teacher" else 20_300}


def evidence(classes: Sequence[str], broken: bool) -> dict[str, Any]:
    """The ledger. Without classes it is that of a task of values: no agreement, no probabilities."""
    corr = {"student": 0.9821, "onnx": 0.9821, "model": 0.9790, "engine": 0.9789, "control": 0.9414}
    corr |= {"model": 0.9432, "engine": 0.9431} if broken else {}
    rows = [
        hop("teacher", "PyTorch", "fp32", 0.9271, 1.0, None, 1480, 696_000, 2_790_000, classes),
        hop("reference", "ONNX", "fp32", 0.9271, 1.0, "teacher", 612, 696_000, 2_801_000, classes),
        hop("student", "PyTorch", "fp32", 0.9143, corr["student"], None, 640, 20_300, 92_000, classes),
        hop("control", "PyTorch", "fp32", 0.9096, corr["control"], None, 643, 20_300, 92_000, classes),
        hop("onnx", "ONNX", "fp32", 0.9143, corr["onnx"], "student", 118, 20_300, 96_500, classes),
        hop("model", "ONNX", "int8", 0.9121, corr["model"], "onnx", 74.1, 20_300, 61_200, classes),
        hop("engine", "ONNX Runtime", "int8", 0.9121, corr["engine"], "model", 71.3, 20_300, 66_000, classes),
    ]
    return {
        "task": "fashion:FashionMnist", "split": "test", "samples": SAMPLES, "score_name": "accuracy" if classes else "score",
        "classes": list(classes), "batch": 32, "hops": rows, "oacc": 0.9271, "control": 0.9096, "machine": MACHINE,
        "speedup": {"reference": 8.58, "teacher": 20.8},
    }  # fmt: skip  # a table of facts


def hop(
    name: str, form: str, precision: str, score: float, corr: float, previous: str | None, p50: float, parameters: int, size: int,
    classes: Sequence[str],
) -> dict[str, Any]:  # fmt: skip  # the columns of a ledger
    alike = {
        "score_drop": round(0.9271 - score, 4), "correlation": corr, "correlation_per_sample": corr,
        "correlation_probabilities": corr if classes else None,
        "kdl": round(2 * (1 - corr), 4) if classes else None, "agreement": round(1 - (1 - corr) * 3.1, 4) if classes else None,
        "largest_difference": round(9 * (1 - corr), 4), "worst_class": {"class": classes[6], "drop": 0.031} if classes else None,
    }  # fmt: skip  # a table of facts
    latency = {
        "1": {"p50": p50, "p99": round(p50 * 1.31, 1), "throughput": round(1e6 / p50)},
        "32": {"p50": round(p50 * 17, 1), "p99": round(p50 * 19, 1), "throughput": round(32e6 / (p50 * 17))},
    }
    before = None if previous is None else {**alike, "hop": previous, "correlation": 0.99998, "largest_difference": 2.4e-6}
    return {
        "hop": name, "format": form, "precision": precision, "status": "measured", "why": None, "score": score, "teacher": alike,
        "previous": before, "latency": latency, "parameters": parameters, "bytes": size, "memory": 3 * size,
    }  # fmt: skip  # a table of facts


def absent(hop: Mapping[str, Any], why: str) -> dict[str, Any]:
    """A hop that cannot run on this machine."""
    return {name: hop[name] for name in ("hop", "format", "precision")} | {"status": "not run here", "why": why}


def verdict(ledger: Mapping[str, Any]) -> dict[str, Any]:
    gates = [gate for hop in ledger["hops"] if hop["hop"] in ("student", "onnx", "model", "engine") for gate in of_hop(hop)]
    engine = ledger["speedup"]["reference"]
    gates.append(judged("speedup", "engine", "reference", "at least 3", 3.0, engine, engine - 3.0))
    failed = [gate for gate in gates if gate["verdict"] == "failed"]
    control = 0.9271 - ledger["control"]
    first = failed[0] if failed else None
    return {
        "verdict": "failed" if first else "passed",
        "first_broken": first["hop"] if first else None,
        "margin": min(gate["margin"] for gate in gates),
        "summary": f"{first['gate']} broke first at {first['hop']}: {first['measured']}, {first['promise']}." if first
        else f"The engine keeps all {len(gates)} promises.",
        "gates": gates,
        "distillation": {"needed": control > 0.025, "judged_on": "score_drop", "control": control, "limit": 0.025},
    }  # fmt: skip  # a table of facts


def of_hop(hop: Mapping[str, Any]) -> list[dict[str, Any]]:
    name, alike, before = hop["hop"], hop["teacher"], hop["previous"]
    gates = [
        judged("sound", name, "absolute", "no NaN, no infinity, not constant", 0, 0, 0),
        judged("score_drop", name, "teacher", "at most 0.025", 0.025, alike["score_drop"], 0.025 - alike["score_drop"]),
        judged("correlation", name, "teacher", "at least 0.95", 0.95, alike["correlation"], alike["correlation"] - 0.95),
    ]
    if alike["agreement"] is not None:
        gates.append(judged("agreement", name, "teacher", "at least 0.91", 0.91, alike["agreement"], alike["agreement"] - 0.91))
    if before is not None:
        seen = before["largest_difference"]
        gates.append(judged("largest_difference", name, "previous", "at most 0.001", 1e-3, seen, 1e-3 - seen))
    return gates


def judged(gate: str, hop: str, other: str, promise: str, limit: float, measured: float, margin: float) -> dict[str, Any]:
    return {
        "gate": gate, "hop": hop, "against": other, "promise": promise, "limit": limit, "measured": measured,
        "margin": round(margin, 6), "verdict": "passed" if margin >= 0 else "failed",
        "decides": hop == "engine" or other != "teacher",
    }  # fmt: skip  # a table of facts


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
