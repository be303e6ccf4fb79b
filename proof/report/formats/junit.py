"""The report for CI servers: a gate that the verdict depends on is a test case, and so is a slot."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from attar.proof.report import gate, words
from attar.proof.report.record import Record, outcome
from attar.proof.report.target import Target, targets


def junit(records: Sequence[Record], recipe_name: str) -> str:
    """JUnit XML: a suite of slots, of which a failed one is an error, and one per target of the gates that decide its verdict.

    A failed or undecided gate is a failure. Gates that decide nothing are left out: the suite counts what the other pages count.
    """
    root = ET.Element("testsuites", name=words.clean(recipe_name))
    slots = suite(root, f"{recipe_name}: slots")
    for record in records:
        slot_case(slots, record, recipe_name)
    for target in targets(records):
        gates = suite(root, f"{recipe_name}: {target.name}")
        for each in target.deciding:
            gate_case(gates, target, each, f"{recipe_name}.{target.name}")
        if not target.gates:
            no_gates(gates, target, f"{recipe_name}.{target.name}")
    for element in (*root, root):
        count(element)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def suite(root: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(root, "testsuite", name=words.clean(name))


def case(parent: ET.Element, name: str, group: str, seconds: float = 0.0) -> ET.Element:
    return ET.SubElement(parent, "testcase", name=words.clean(name), classname=words.clean(group), time=f"{seconds:.3f}")


def attach(parent: ET.Element, kind: str, message: str, text: str = "", **more: str) -> None:
    element = ET.SubElement(parent, kind, {"message": words.clean(message), **more})
    element.text = words.clean(text) or None


def slot_case(parent: ET.Element, record: Record, recipe_name: str) -> None:
    """The time is that of making it, so a reused slot took none."""
    made_now, became = record.status in ("made", "failed"), outcome(record)
    one = case(parent, record.slot, f"{recipe_name}.slots", record.seconds if made_now else 0.0)
    if became == "failed":
        error = record.error or "it left no message"
        attach(one, "error", error.strip().splitlines()[0] if error.strip() else error, error, type=record.stage)
    elif became in ("skipped", "refused"):
        attach(one, "skipped", record.error or record.reason)


def gate_case(parent: ET.Element, target: Target, of: gate.Gate, group: str) -> None:
    other, verdict = target.other(of), of["verdict"]
    one = case(parent, f"{of['hop']}: {gate.title(of, other)}, {gate.promise(of)}", group)
    if verdict == "not run here":
        attach(one, "skipped", target.absence(of["hop"]))
    elif verdict != "passed":
        attach(one, "failure", f"{verdict}: {gate.found(of, other)}", evidence(target, of, other), type=verdict)


def evidence(target: Target, of: gate.Gate, other: str) -> str:
    """A line for each thing that is known of a gate."""
    lines = {
        "against": other,
        "promise": gate.promise(of),
        "measured": gate.measured(of),
        "one-sided 95 % bounds": gate.bounds(of),
        "resting on": gate.support(of),
        "margin": gate.margin(of),
        "evidence": gate.note(of),
        "what would decide": of["would_decide"] or "",
        "first broken hop": target.first_broken or "",
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items() if value)


def no_gates(parent: ET.Element, target: Target, group: str) -> None:
    """A target without gates must not look like one whose gates all passed."""
    attach(case(parent, "verdict", group), "skipped", target.summary)


def count(element: ET.Element) -> None:
    cases = list(element.iter("testcase"))
    element.set("tests", str(len(cases)))
    for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(sum(one.find(kind) is not None for one in cases)))
    element.set("time", f"{sum(float(one.attrib['time']) for one in cases):.3f}")
