"""JUnit XML, as we wrote it and as a parser that is not ours reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped
from junitparser.junitparser import FinalResult

from attar.proof.report.formats.junit import render_junit
from tests.support.proof.report_records import Made, broke, parsed, run_records, with_gate, without_engine


def suites(records: Sequence[Made]) -> dict[str, ET.Element]:
    return {suite.attrib["name"]: suite for suite in parsed(records, "fashion")}


def test_junit_of_a_passed_run(tmp_path: Path) -> None:
    found = suites(run_records(tmp_path))
    assert set(found) == {"fashion: slots", "fashion: cpu"}
    assert {suite.attrib["failures"] + suite.attrib["errors"] for suite in found.values()} == {"00"}
    assert found["fashion: slots"].attrib["tests"] == "12"


def test_junit_of_broken_gates(tmp_path: Path) -> None:
    found = suites(run_records(tmp_path, broken=True))
    cases = {case.attrib["name"]: case for case in found["fashion: cpu"]}
    failure = cases["engine: correlation against the teacher, at least 0.95"].find("failure")
    assert failure is not None
    said = "failed: engine correlation against the teacher: 0.9431 (0.9374 to 0.9488), promised at least 0.95"
    assert failure.attrib["message"] == said
    assert failure.text is not None
    assert failure.text.splitlines() == [
        "against: teacher",
        "promise: at least 0.95",
        "measured: 0.9431",
        "one-sided 95 % bounds: 0.9374 to 0.9488",
        "resting on: 2\u202f000 samples",
        "margin: −0.0069",
        "first broken hop: model",
    ]
    assert "onnx: sound answers, no NaN, no infinity, not constant" in cases
    assert "model: largest difference against onnx, at most 0.001" in cases
    assert found["fashion: cpu"].attrib["failures"] == "2"
    assert found["fashion: slots"].attrib["errors"] == "0"
    assert found["fashion: slots"].attrib["skipped"] == "1"


def read_back(records: Sequence[Made], path: Path) -> JUnitXml:
    """As a CI server has it: written to a file, and read by a parser that is not ours."""
    path.write_text(render_junit(records, "fashion"), encoding="utf-8")
    return JUnitXml.fromfile(str(path))


def verdicts(found: JUnitXml) -> dict[str, FinalResult]:
    """The failures, errors and skips of every test case, by its name."""
    return {str(case.name): result for suite in found for case in suite for result in case.result}


def test_a_real_parser_finds_every_failure_with_its_evidence(tmp_path: Path) -> None:
    records = run_records(tmp_path, broken=True, undecided=True, production=True)
    fault = {"measured": 1, "note": "at batch 1: shape [2, 10], expected [1, 10]"}
    found = verdicts(read_back(with_gate(records, "onnx", "sizes", **fault), tmp_path / "junit.xml"))
    failures = {name: one for name, one in found.items() if isinstance(one, Failure)}
    assert {name: one.type for name, one in failures.items()} == {
        "onnx: sizes, a sound answer at every promised size": "failed",
        "engine: score drop against the teacher, at most 0.025": "undecided",
        "engine: correlation against the teacher, at least 0.95": "failed",
        "engine: agreement against the teacher, at least 0.91": "failed",
    }
    one = failures["onnx: sizes, a sound answer at every promised size"]
    assert "evidence: at batch 1: shape [2, 10], expected [1, 10]" in str(one.text)
    one = failures["engine: score drop against the teacher, at most 0.025"]
    assert one.message == "undecided: engine score drop against the teacher: 0.0231 (0.0193 to 0.0269), promised at most 0.025"
    assert "one-sided 95 % bounds: 0.0193 to 0.0269\n" in str(one.text)
    assert "what would decide: about 8,000 samples\n" in str(one.text)
    assert [name for name, one in found.items() if isinstance(one, Skipped)] == ["cpu.bundle"]


@pytest.mark.parametrize("slot", [None, "student", "cpu.evidence", "cpu.verdict"])
def test_a_real_parser_counts_as_we_do_and_writes_the_same(tmp_path: Path, slot: str | None) -> None:
    records = run_records(tmp_path, broken=True)
    found = read_back(broke(records, slot, "no \x1b[31m<luck>") if slot else records, tmp_path / "junit.xml")
    ours = [(each.tests, each.failures, each.errors, each.skipped) for each in (found, *found)]
    seen = verdicts(found)
    for each in (*found, found):
        each.update_statistics()
    assert [(each.tests, each.failures, each.errors, each.skipped) for each in (found, *found)] == ours
    found.write(str(tmp_path / "again.xml"))
    again = verdicts(JUnitXml.fromfile(str(tmp_path / "again.xml")))
    assert {name: (one.message, one.text) for name, one in again.items()} == {n: (o.message, o.text) for n, o in seen.items()}
    assert sum(isinstance(one, Error) for one in seen.values()) == (slot is not None)


def test_junit_leaves_out_what_decides_nothing(tmp_path: Path) -> None:
    records = run_records(tmp_path)
    found = suites(with_gate(records, "student", "correlation", limit=0.999))["fashion: cpu"]
    assert (found.attrib["failures"], found.attrib["skipped"]) == ("0", "0")
    assert not [case for case in found if case.attrib["name"].startswith("student: correlation")]


def test_junit_of_what_did_not_run(tmp_path: Path) -> None:
    found = suites(without_engine(run_records(tmp_path)))["fashion: cpu"]
    assert found.attrib["failures"] == "0"
    assert int(found.attrib["skipped"]) == sum("engine:" in case.attrib["name"] for case in found)
    said = {skip.attrib["message"] for skip in found.iter("skipped")}
    assert said == {"not run here: needs a GPU that this machine lacks"}


def test_junit_says_why_a_speedup_of_an_engine_that_ran_is_unknown(tmp_path: Path) -> None:
    unknown = {"measured": None, "bounds": None, "samples": None, "note": "it was timed on cuda"}
    found = suites(with_gate(run_records(tmp_path), "engine", "speedup", **unknown))["fashion: cpu"]
    assert [skip.attrib["message"] for skip in found.iter("skipped")] == ["not run here: it was timed on cuda"]


def test_junit_target_without_gates_is_not_a_pass(tmp_path: Path) -> None:
    found = suites(broke(run_records(tmp_path), "student", "no"))
    assert (found["fashion: cpu"].attrib["tests"], found["fashion: cpu"].attrib["skipped"]) == ("1", "1")
