"""The report for machines and terminals: JUnit, JSON, the ledger as text, the files, and how numbers are written."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from attar.pipeline import report
from attar.pipeline.report import gate, terminal, words
from attar.pipeline.report.data import data
from attar.pipeline.report.html import html
from attar.pipeline.report.junit import junit
from attar.pipeline.report.markdown import markdown
from attar.pipeline.report.target import targets
from tests.report_records import Made, broke, changed, parsed, printed, run_records, without_engine

# junit


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
    failure = cases["engine: correlation, at least 0.95 (against teacher)"].find("failure")
    assert failure is not None
    said = "failed: engine correlation against teacher: 0.9431 (at least 0.95, margin −0.0069)"
    assert failure.attrib["message"] == said
    assert failure.text is not None
    assert "measured: 0.9431" in failure.text
    assert "first broken hop: model" in failure.text
    assert "onnx: sound, no NaN, no infinity, not constant (absolute)" in cases
    assert "model: largest difference, at most 0.001 (against onnx)" in cases
    assert found["fashion: cpu"].attrib["failures"] == "2"
    assert found["fashion: slots"].attrib["errors"] == "0"
    assert found["fashion: slots"].attrib["skipped"] == "1"


def test_junit_leaves_out_what_decides_nothing(tmp_path: Path) -> None:
    records = run_records(tmp_path)
    gates = targets(records)[0].gates
    student = [{**g, "verdict": "failed"} if (g["hop"], g["gate"]) == ("student", "correlation") else g for g in gates]
    found = suites(changed(records, "cpu.verdict", gates=student))["fashion: cpu"]
    assert (found.attrib["failures"], found.attrib["skipped"]) == ("0", "0")
    assert not [case for case in found if case.attrib["name"].startswith("student: correlation")]


def test_every_page_counts_the_same_gates(tmp_path: Path) -> None:
    """4 sound, 2 conversions, 4 promises of the engine and the speedup, of which int8 breaks two."""
    records = run_records(tmp_path, broken=True)
    assert "gates: 9 passed, 2 failed\n" in printed(records)
    assert "Gates: 9 passed, 2 failed. First broken hop: model." in markdown(records, "fashion")
    assert ": 9 passed, 2 failed." in html(records, "fashion")
    suite = suites(records)["fashion: cpu"]
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("11", "2")


def test_page_traces_what_the_engine_broke_and_nothing_else(tmp_path: Path) -> None:
    kept, broken = targets(run_records(tmp_path / "a"))[0], targets(run_records(tmp_path / "b", broken=True))[0]
    assert kept.traced == kept.deciding
    traced = {(gate["hop"], gate["gate"]) for gate in broken.traced} - {(gate["hop"], gate["gate"]) for gate in broken.deciding}
    assert traced == {(hop, gate) for hop in ("student", "onnx", "model") for gate in ("correlation", "agreement")}


def test_junit_of_what_did_not_run(tmp_path: Path) -> None:
    found = suites(without_engine(run_records(tmp_path)))["fashion: cpu"]
    assert found.attrib["failures"] == "0"
    assert int(found.attrib["skipped"]) == sum("engine:" in case.attrib["name"] for case in found)


def test_junit_target_without_gates_is_not_a_pass(tmp_path: Path) -> None:
    found = suites(broke(run_records(tmp_path), "student", "no"))
    assert (found["fashion: cpu"].attrib["tests"], found["fashion: cpu"].attrib["skipped"]) == ("1", "1")


# json, terminal, files


def test_data_is_the_object_of_the_design(tmp_path: Path) -> None:
    made = data(run_records(tmp_path))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert set(made["slots"][0]) == {"slot", "status", "reused", "reason", "key", "path", "seconds", "facts", "error"}
    assert made["targets"]["cpu"]["verdict"] == "passed"
    assert made["targets"]["cpu"]["bundle"] == str(tmp_path / "cpu.bundle")
    assert set(made["targets"]["cpu"]) == {"verdict", "gates", "bundle"}


def test_data_of_a_target_that_was_not_judged(tmp_path: Path) -> None:
    made = data(broke(run_records(tmp_path), "student", "no"))
    assert made["targets"]["cpu"] == {"verdict": None, "gates": [], "bundle": None}


def test_refused_bundle_is_none(tmp_path: Path) -> None:
    assert data(run_records(tmp_path, broken=True))["targets"]["cpu"]["bundle"] is None


def test_terminal_fits_80_columns_and_names_what_failed(tmp_path: Path) -> None:
    shown = printed(run_records(tmp_path, broken=True))
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert shown.splitlines()[-3:] == [
        "  engine correlation against teacher: 0.9431 (at least 0.95, margin −0.0069)",
        "  engine agreement against teacher: 0.8236 (at least 0.91, margin −0.0864)",
        "first broken hop: model",
    ]


def test_ledger_in_a_pipe_is_not_wrapped(tmp_path: Path) -> None:
    sentence = f"Every promise is kept{', and so is the next' * 20}."
    records = changed(run_records(tmp_path), "cpu.verdict", summary=sentence)
    terminal.show(records, file := io.StringIO())
    assert f"cpu  passed  {sentence}" in file.getvalue().splitlines()
    assert " accuracy    drop    CORR   agree  p50 µs     size" in file.getvalue()


def test_ledger_is_as_wide_as_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    records = changed(run_records(tmp_path), "cpu.verdict", summary="word " * 60)
    for columns in (70, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        terminal.show(records, screen := Screen())
        longest = max(map(len, words.clean(screen.getvalue()).splitlines()))
        assert columns - 6 < longest <= columns
        assert "…" not in screen.getvalue()


def test_terminal_says_what_did_not_run(tmp_path: Path) -> None:
    assert "not run" in printed(without_engine(run_records(tmp_path)))


def test_write_replaces_all_four_and_leaves_nothing_else(tmp_path: Path) -> None:
    records = run_records(tmp_path / "store")
    for _ in range(2):
        path = report.write(records, tmp_path / "out", "fashion")
    assert path == tmp_path / "out" / "report.html"
    assert sorted(each.name for each in path.parent.iterdir()) == ["junit.xml", "report.html", "report.json", "report.md"]
    json.loads((path.parent / "report.json").read_text(encoding="utf-8"))
    assert (path.parent / "junit.xml").read_text(encoding="utf-8") == junit(records, "fashion")


def test_importing_the_report_is_cheap() -> None:
    heavy = "{'rich', 'jinja2', 'matplotlib', 'numpy', 'safetensors'}"
    modules = "attar.pipeline.report, attar.pipeline.report.terminal, attar.pipeline.report.data, attar.pipeline.report.html"
    code = f"import sys, {modules}; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


# numbers


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.micro(71.34), "71.3 µs"),
        (words.micro(999.9), "1000 µs"),
        (words.micro(1480), "1.48 ms"),
        (words.micro(2.5e6), "2.50 s"),
        (words.size(66_000), "66.0 kB"),
        (words.size(999), "999 B"),
        (words.count(1234567), "1\u2009234\u2009567"),
        (words.times(8.583), "8.58×"),
        (words.times(123.4), "123×"),
        (words.score(-0.00124), "−0.0012"),
        (words.score(-0.00001), "0.0000"),
        (words.change(0.0124), "+0.012"),
        (words.change(-0.0124), "−0.012"),
        (words.change(0.0001), "0.000"),
        (words.limit(-0.01), "−0.01"),
        (words.minus("drop -1.5e-05 (at least -.5), 2025-03-01, top-1"), "drop −1.5e−05 (at least −.5), 2025-03-01, top-1"),
        (words.small(2.4e-06), "2.4e−06"),
        (words.small(-0.0068), "−0.0068"),
        (words.seconds(118.4), "1 min 58 s"),
        (words.seconds(59.97), "60.0 s"),
        (words.seconds(7325), "2 h 02 min"),
        (words.score(None), "–"),
        (words.clean("a\x1b[31mb\x00c"), "abc"),
    ],
)
def test_words(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    ("name", "measured", "margin", "said"),
    [
        ("sound", 0, 0, "onnx sound: yes (at least -1)"),
        ("sound", 37, -37, "onnx sound: no, 37 samples (at least -1)"),
        ("score_drop", -0.0002, 0.0252, "onnx score drop: −0.0002 (at least -1, margin +0.0252)"),
        ("speedup", 2.5, -0.5, "onnx speedup: 2.50× (at least -1, margin −0.500×)"),
        ("largest_difference", 5.7e-6, 9.943e-4, "onnx largest difference: 5.7e−06 (at least -1, margin +9.9e−04)"),
        ("correlation", None, None, "onnx correlation: – (at least -1)"),
    ],
)
def test_gate_in_words(name: str, measured: float | None, margin: float | None, said: str) -> None:
    one = {"gate": name, "hop": "onnx", "promise": "at least -1", "measured": measured, "margin": margin}
    assert gate.found(one, "absolute") == said.replace("-1", "−1")
    assert gate.found(one, "student") == said.replace("-1", "−1").replace(":", " against student:", 1)
