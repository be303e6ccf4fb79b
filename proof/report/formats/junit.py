"""The report for CI servers: a slot is a test case, and so is a required gate."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from attar.proof.gate import Gate
from attar.proof.report import formatting, gate_formatting
from attar.proof.report.record import Record, describe_status
from attar.proof.report.target import Target, group_targets
from attar.proof.verdicts.gate_text import format_missing_evidence


def render_junit(records: Sequence[Record], recipe_name: str) -> str:
    """Render JUnit XML: a suite of the slots, and one for each target of its required gates.

    A failed slot is an error; a failed or undecided gate is a failure. Gates that are not required
    are left out: the suite counts what the other pages count.
    """
    root = ET.Element("testsuites", name=formatting.strip_controls(recipe_name))
    slots = add_suite(root, f"{recipe_name}: slots")
    for record in records:
        add_slot_case(slots, record, recipe_name)
    for target in group_targets(records):
        gates = add_suite(root, f"{recipe_name}: {target.name}")
        for gate in target.required_gates:
            add_gate_case(gates, target, gate, f"{recipe_name}.{target.name}")
        if not target.gates:
            add_skipped_verdict(gates, target, f"{recipe_name}.{target.name}")
    for element in (*root, root):
        count_results(element)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def add_suite(root: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(root, "testsuite", name=formatting.strip_controls(name))


def add_case(parent: ET.Element, name: str, group: str, seconds: float = 0.0) -> ET.Element:
    return ET.SubElement(
        parent,
        "testcase",
        name=formatting.strip_controls(name),
        classname=formatting.strip_controls(group),
        time=f"{seconds:.3f}",
    )


def attach_result(parent: ET.Element, kind: str, message: str, text: str = "", **more: str) -> None:
    element = ET.SubElement(parent, kind, {"message": formatting.strip_controls(message), **more})
    element.text = formatting.strip_controls(text) or None


def add_slot_case(parent: ET.Element, record: Record, recipe_name: str) -> None:
    """The time is that of making it, so a reused slot took none."""
    made_now, became = record.status in ("made", "failed"), describe_status(record)
    one = add_case(parent, record.slot, f"{recipe_name}.slots", record.seconds if made_now else 0.0)
    if became == "failed":
        error = record.error or "it left no message"
        attach_result(
            one,
            "error",
            error.strip().splitlines()[0] if error.strip() else error,
            error,
            type=record.stage,
        )
    elif became in ("skipped", "refused"):
        attach_result(one, "skipped", record.error or record.reason)


def add_gate_case(parent: ET.Element, target: Target, gate: Gate, group: str) -> None:
    comparison, verdict = gate.comparison, gate.verdict
    title = f"{comparison.hop}: {gate_formatting.format_title(comparison)}"
    one = add_case(parent, f"{title}, {gate_formatting.format_promise(gate)}", group)
    if verdict == "not run here":
        note = gate_formatting.format_note(gate)
        absence = target.explain_absence(comparison.hop)
        attach_result(one, "skipped", f"{verdict}: {note}" if note else absence)
    elif verdict != "passed":
        message = f"{verdict}: {gate_formatting.format_gate(gate)}"
        attach_result(one, "failure", message, format_evidence(target, gate), type=verdict)


def format_evidence(target: Target, gate: Gate) -> str:
    """Return a line for each thing that is known of a gate."""
    lines = {
        "against": gate.comparison.baseline_name,
        "promise": gate_formatting.format_promise(gate),
        "measured": gate_formatting.format_value(gate.comparison),
        "one-sided 95 % bounds": gate_formatting.format_bounds(gate.comparison),
        "resting on": gate_formatting.format_sample_size(gate.comparison),
        "margin": gate_formatting.format_margin(gate),
        "evidence": gate_formatting.format_note(gate),
        "what would decide": format_missing_evidence(gate) or "",
        "first broken hop": target.first_broken or "",
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items() if value)


def add_skipped_verdict(parent: ET.Element, target: Target, group: str) -> None:
    """A target without gates must not look like one whose gates all passed."""
    attach_result(add_case(parent, "verdict", group), "skipped", target.summary)


def count_results(element: ET.Element) -> None:
    cases = list(element.iter("testcase"))
    element.set("tests", str(len(cases)))
    for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(attribute, str(sum(one.find(kind) is not None for one in cases)))
    element.set("time", f"{sum(float(one.attrib['time']) for one in cases):.3f}")
