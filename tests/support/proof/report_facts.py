"""Facts as the stages leave them, with numbers like those of a real run: the ledger, the gates, and what trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.gate import Baseline, Comparison, Gate, Metric
from attar.proof.hop import HopName
from attar.proof.verdicts.verdict_json import GateJson, gate_to_json

CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
MACHINE = {"cpu": "Example CPU @ 2.60GHz", "cores": 2, "flags": "ab12", "gpu": "none", "system": "Linux 6.1", "python": "3.11.9"}
SAMPLES = 2000


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


def evidence(classes: Sequence[str], broken: bool, int8: float, production: bool, control: float) -> dict[str, Any]:
    """The ledger. Without classes it is that of a task of values: no agreement, no probabilities."""
    corr = {"student": 0.9821, "onnx": 0.9821, "model": 0.9790, "engine": 0.9789, "control": 0.9414}
    corr |= {"model": 0.9432, "engine": 0.9431} if broken else {}
    rows = [
        hop("teacher", "PyTorch", "fp32", 0.9271, 1.0, None, 1480, 696_000, 2_790_000, classes),
        hop("reference", "ONNX", "fp32", 0.9271, 1.0, "teacher", 612, 696_000, 2_801_000, classes),
        hop("student", "PyTorch", "fp32", 0.9143, corr["student"], None, 640, 20_300, 92_000, classes),
        hop("control", "PyTorch", "fp32", control, corr["control"], None, 643, 20_300, 92_000, classes),
        hop("onnx", "ONNX", "fp32", 0.9143, corr["onnx"], "student", 118, 20_300, 96_500, classes),
        hop("model", "ONNX", "int8", int8, corr["model"], "onnx", 74.1, 20_300, 61_200, classes),
        hop("engine", "ONNX Runtime", "int8", int8, corr["engine"], "model", 71.3, 20_300, 66_000, classes),
    ]
    speedup: dict[str, Any] = {"reference": 8.58, "teacher": 20.8, "bounds": {"reference": [8.41, 8.77], "teacher": [20.1, 21.4]}}
    if production:
        rows.append(hop("production", "ONNX Runtime", "int8", 0.9133, 0.9801, None, 86.4, 20_300, 66_000, classes))
        rows[-2]["production"] = comparison(0.0012, 0.9931, classes)
        speedup["production"] = 1.21
        speedup["bounds"]["production"] = [1.18, 1.24]
    gain = round(0.9143 - control, 4)
    return {
        "task": "fashion:FashionMnist", "split": "test", "samples": SAMPLES, "score_name": "accuracy" if classes else "score",
        "classes": list(classes), "batch": 32, "hops": rows, "oacc": 0.9271, "control": control, "machine": MACHINE,
        "speedup": {**speedup, "rounds": 200}, "gain": {"score": gain, "bounds": around(gain, 0.0045)},
    }  # fmt: skip  # a table of facts


def around(value: float, room: float) -> list[float]:
    return [min(value, round(value - room, 4)), max(value, round(value + room, 4))]


def comparison(drop: float, corr: float, classes: Sequence[str]) -> dict[str, Any]:
    """How one hop compares with another; nothing is uncertain about equal answers."""
    apart = 1 - corr
    found = {
        "score_drop": drop, "correlation": corr, "correlation_per_sample": corr,
        "correlation_probabilities": corr if classes else None, "cosine": None,
        "kdl": round(2 * apart, 4) if classes else None, "agreement": round(1 - apart * 3.1, 4) if classes else None,
    }  # fmt: skip  # a table of facts
    rooms = {"score_drop": 0.0038 if apart else 0, "kdl": 0.11 * apart, "agreement": 0.3 * apart}
    bounds = {name: None if value is None else around(value, rooms.get(name, 0.1 * apart)) for name, value in found.items()}
    worst = {"class": classes[6], "drop": 0.031} if classes else None
    return {**found, "bounds": bounds, "largest_difference": round(9 * apart, 4), "worst_class": worst}


def hop(
    name: str, form: str, precision: str, score: float, corr: float, previous: str | None, p50: float, parameters: int, size: int,
    classes: Sequence[str],
) -> dict[str, Any]:  # fmt: skip  # the columns of a ledger
    alike = comparison(round(0.9271 - score, 4), corr, classes)
    latency = {
        "1": {"p50": p50, "p99": round(p50 * 1.31, 1), "throughput": round(1e6 / p50)},
        "32": {"p50": round(p50 * 17, 1), "p99": round(p50 * 19, 1), "throughput": round(32e6 / (p50 * 17))},
    }
    before = None
    if previous is not None:
        before = {**comparison(0.0, 0.99998, classes), "hop": previous, "largest_difference": 2.4e-6}
    return {
        "hop": name, "format": form, "precision": precision, "status": "measured", "why": None, "score": score,
        "score_bounds": around(score, 0.0104), "nonfinite": 0, "constant": False, "sizes": {"tried": 6, "faults": []},
        "teacher": alike, "previous": before,
        "latency": latency, "parameters": parameters, "bytes": size, "memory": 3 * size,
    }  # fmt: skip  # a table of facts


def absent(hop: Mapping[str, Any], why: str) -> dict[str, Any]:
    """A hop that cannot run on this machine."""
    return {name: hop[name] for name in ("hop", "format", "precision")} | {"status": "not run here", "why": why}


def choice() -> dict[str, Any]:
    """Five candidates: two pass, one breaks a promise, one was refused and one needs another machine."""
    rows = [
        tried("c1", "onnxruntime fp32", 118.0, 0.9143, 0.9821, 96_500, "slower: 1.65 times (1.63 to 1.67)"),
        tried("c2", "onnxruntime int8", 71.3, 0.9121, 0.9789, 66_000, "the fastest that keeps the promises"),
        tried("c3", "onnxruntime int8, per_channel false", 69.9, 0.8904, 0.9431, 65_100, "correlation 0.9431", verdict="failed"),
        untried("c4", "onnxruntime int8-dynamic", "refused", "nothing can be quantized: no <MatMul> is left"),
        untried("c5", "tensorrt-rtx fp16", "not run here", "needs a GPU"),
    ]
    timing = {"cpu": 1, "threads": 1, "rounds": {"1": 200, "32": 200}, "load_average": [0.4, 1.0]}
    about = {"split": "validation", "samples": 5000, "score_name": "accuracy", "batch": 32, "timing": timing}
    return {**about, "winner": "c2", "passed": True, "summary": "onnxruntime int8 goes on", "candidates": rows}


def tried(
    name: str, title: str, p50: float, score: float, corr: float, size: int, reason: str, verdict: str = "passed"
) -> dict[str, Any]:  # fmt: skip  # the columns of a table
    found = {"score": score, "score_drop": round(0.9271 - score, 4), "correlation": corr, "bytes": size, "threads": 1}
    latency = {"p50": {"1": p50, "32": 17 * p50}, "slower": None}
    return {"candidate": name, "title": title, "status": "measured", "verdict": verdict, "reason": reason, **found, **latency}


def untried(name: str, title: str, status: str, why: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("score", "score_drop", "correlation", "bytes", "threads", "slower"))
    row = {"candidate": name, "title": title, "status": status, "verdict": status, "reason": f"{status}: {why}"}
    return {**row, **nothing, "p50": {}}


def verdict(ledger: Mapping[str, Any]) -> dict[str, Any]:
    hops = {hop["hop"]: hop for hop in ledger["hops"]}
    gates = [judged("teacher_score", "teacher", "absolute", 0.9, hops["teacher"]["score"], hops["teacher"]["score_bounds"])]
    gates += [gate for name in ("student", "onnx", "model", "engine") for gate in of_hop(hops[name])]
    speedup, times = ledger["speedup"], ledger["speedup"]["bounds"]
    gates.append(judged("speedup", "engine", "reference", 3.0, speedup["reference"], times["reference"], samples=200))
    if "production" in hops:
        other = hops["engine"]["production"]
        gates.append(judged("score_drop", "engine", "production", 0.01, other["score_drop"], other["bounds"]["score_drop"]))
        gates.append(judged("speedup", "engine", "production", 1.0, speedup["production"], times["production"], samples=200))
    failed = [gate for gate in gates if gate["verdict"] == "failed"]
    open_ones = [gate for gate in gates if gate["verdict"] == "undecided" and gate["decides"]]
    told = next(iter(failed + open_ones), None)
    return {
        "verdict": "failed" if failed else "undecided" if open_ones else "passed",
        "first_broken": failed[0]["hop"] if failed else None,
        "margin": failed[0]["margin"] if failed else None,
        "summary": summary(told) if told else f"Every promise is kept: all {len(gates)} gates.",
        "gates": gates,
        "distillation": distillation(hops["control"], ledger["gain"]),
    }  # fmt: skip  # a table of facts


def summary(told: Mapping[str, Any]) -> str:
    low, high = told["bounds"]
    found = f"{told['hop']}: {told['gate'].replace('_', ' ')} {told['measured']} ({low} to {high}), promised {told['promise']}"
    if told["verdict"] == "undecided":
        return f"undecided: {found}; {told['would_decide']} would decide"
    return f"{found} (first broken hop: {told['hop']})"


def distillation(control: Mapping[str, Any], gain: Mapping[str, Any]) -> dict[str, Any]:
    drop = control["teacher"]
    row = judged("score_drop", "control", "teacher", 0.025, drop["score_drop"], drop["bounds"]["score_drop"], decides=False)
    needed = {"passed": False, "failed": True}.get(row["verdict"])
    said = {
        False: "distillation was not needed: the same student without a teacher keeps every promise",
        True: "distillation was needed: the same student without a teacher breaks a promise",
        None: "whether distillation was needed is undecided",
    }
    found = f"{said[needed]}: score drop {row['measured']}, {row['promise']}; it gained {gain['score']} in accuracy"
    return {"needed": needed, "gain": gain["score"], "bounds": gain["bounds"], "gates": [row], "says": found}


def of_hop(hop: Mapping[str, Any]) -> list[GateJson]:
    name, alike, before = hop["hop"], hop["teacher"], hop["previous"]
    promised: dict[Metric, float] = {"score_drop": 0.025, "correlation": 0.95, "agreement": 0.91}
    gates = [judged("sound", name, "absolute", 0, 0), judged("sizes", name, "absolute", 0, 0)]
    gates += [
        judged(gate, name, "teacher", limit, alike[gate], alike["bounds"][gate], decides=name == "engine")
        for gate, limit in promised.items()
        if alike[gate] is not None
    ]
    if before is not None:
        gates.append(judged("largest_difference", name, "previous", 1e-3, before["largest_difference"]))
    return gates


def judged(
    metric: Metric, hop: HopName, baseline: Baseline, limit: float, measured: float,
    bounds: Sequence[float] | None = None, *, decides: bool = True, samples: int = SAMPLES,
) -> GateJson:  # fmt: skip  # the columns of a verdict
    """Return the JSON of a gate."""
    size = None if bounds is None else samples
    within = None if bounds is None else ConfidenceBounds(*bounds)
    comparison = Comparison(metric, hop, baseline, measured, within, size)
    return gate_to_json(Gate(comparison, limit, decides))
