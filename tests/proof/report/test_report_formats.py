"""The report for machines and terminals: JUnit, JSON, the ledger as text, the files, and how numbers are written."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from attar.proof.gate import Comparison, Gate, Metric
from attar.proof.report import formatting, gate_formatting
from attar.proof.report.data import build_data
from attar.proof.report.formats import files, terminal
from attar.proof.report.formats.html import render_html
from attar.proof.report.formats.junit import render_junit
from attar.proof.report.formats.markdown import render_markdown
from attar.proof.report.target import group_targets
from attar.proof.verdicts.verdict_json import gate_from_json
from tests.support.proof.report_facts import judged
from tests.support.proof.report_records import broke, changed, parsed, printed, run_records, with_gate, without_engine


def test_every_page_counts_the_same_gates(tmp_path: Path) -> None:
    """The teacher's floor, 4 sound, 4 sizes, 3 conversions, 3 promises of the engine and the speedup; int8 breaks two."""
    records = run_records(tmp_path, broken=True)
    assert "gates: 14 passed, 2 failed\n" in printed(records)
    assert "Gates: 14 passed, 2 failed. First broken hop: model." in render_markdown(records, "fashion")
    assert ": 14 passed, 2 failed." in render_html(records, "fashion")
    assert [(suite.attrib["tests"], suite.attrib["failures"]) for suite in parsed(records, "fashion")][1:] == [("16", "2")]


def test_page_traces_what_the_engine_broke_and_nothing_else(tmp_path: Path) -> None:
    kept, broken = group_targets(run_records(tmp_path / "a"))[0], group_targets(run_records(tmp_path / "b", broken=True))[0]
    assert kept.traced_gates == kept.required_gates
    traced = {(gate.comparison.hop, gate.comparison.metric) for gate in broken.traced_gates if not gate.required}
    assert traced == {(hop, gate) for hop in ("student", "onnx", "model") for gate in ("correlation", "agreement")}


# json, terminal, files


def test_data_is_the_object_of_the_design(tmp_path: Path) -> None:
    made = build_data(run_records(tmp_path))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert set(made["slots"][0]) == {"slot", "status", "reused", "reason", "key", "path", "seconds", "facts", "error"}
    assert made["targets"]["cpu"]["verdict"] == "passed"
    assert made["targets"]["cpu"]["bundle"] == str(tmp_path / "cpu.bundle")
    assert set(made["targets"]["cpu"]) == {"verdict", "gates", "bundle"}


def test_data_of_a_target_that_was_not_judged(tmp_path: Path) -> None:
    made = build_data(broke(run_records(tmp_path), "student", "no"))
    assert made["targets"]["cpu"] == {"verdict": None, "gates": [], "bundle": None}


def test_refused_bundle_is_none(tmp_path: Path) -> None:
    assert build_data(run_records(tmp_path, broken=True))["targets"]["cpu"]["bundle"] is None


def test_terminal_fits_80_columns_and_names_what_failed(tmp_path: Path) -> None:
    shown = printed(run_records(tmp_path, broken=True))
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert shown.splitlines()[-8:] == [
        "gates: 14 passed, 2 failed",
        "  failed: engine correlation against the teacher",
        "    0.9431 (0.9374 to 0.9488), at least 0.95; margin −0.0069",
        "  failed: engine agreement against the teacher",
        "    0.8236 (0.8065 to 0.8407), at least 0.91; margin −0.0864",
        "first broken hop: model",
        "control: distillation was not needed: the same student without a teacher keeps ",
        "every promise: score drop 0.0175, at most 0.025; it gained 0.0047 in accuracy",
    ]


def test_terminal_says_what_would_decide(tmp_path: Path) -> None:
    records = run_records(tmp_path, undecided=True, production=True)
    shown = printed(with_gate(records, "engine", "score_drop", bounds=[0.0, 0.05], samples=10))
    assert max(map(len, shown.splitlines())) <= 80
    assert "  undecided: engine score drop against the teacher\n" in shown
    assert "    0.0231 (0.0000 to 0.0500), at most 0.025; about 2,005 samples would decide\n" in shown
    assert "  undecided: engine score drop against the bundle in production\n" in shown
    assert "\nproduction  ONNX Runtime int8" in shown


def test_terminal_gives_the_evidence_in_words(tmp_path: Path) -> None:
    fault = {"measured": 2, "note": "at batch 1: shape [2, 10], expected [1, 10]"}
    shown = printed(with_gate(run_records(tmp_path), "onnx", "sizes", **fault), width=120)
    assert "  failed: onnx sizes\n" in shown
    assert "    no, 2 sizes, a sound answer at every promised size; at batch 1: shape [2, 10], expected [1, 10]\n" in shown


def test_ledger_in_a_pipe_is_not_wrapped(tmp_path: Path) -> None:
    sentence = f"Every promise is kept{', and so is the next' * 20}."
    records = changed(run_records(tmp_path), "cpu.verdict", summary=sentence)
    terminal.print_ledger(records, file := io.StringIO())
    assert f"cpu  passed  {sentence}" in file.getvalue().splitlines()
    assert " accuracy    drop    CORR   agree  p50 µs     size" in file.getvalue()


def test_the_times_of_the_ledger_are_at_the_batch_size_that_is_promised(tmp_path: Path) -> None:
    records = changed(run_records(tmp_path), "cpu.evidence", speed_batch=32)
    hop = next(
        hop for record in records if record.slot == "cpu.evidence" for hop in record.facts["hops"] if hop["hop"] == "engine"
    )
    terminal.print_ledger(records, file := io.StringIO())
    (row,) = [line for line in file.getvalue().splitlines() if line.startswith("engine ")]
    assert "p50 µs at 32" in file.getvalue()
    assert f"{hop['latency']['32']['p50']:.0f}" in row
    assert "| p50 at batch 32 |" in render_markdown(records, "demo")


def test_ledger_is_as_wide_as_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    records = changed(run_records(tmp_path), "cpu.verdict", summary="word " * 60)
    for columns in (70, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        terminal.print_ledger(records, screen := Screen())
        longest = max(map(len, formatting.strip_controls(screen.getvalue()).splitlines()))
        assert columns - 6 < longest <= columns
        assert "…" not in screen.getvalue()


def test_terminal_says_what_did_not_run(tmp_path: Path) -> None:
    assert "not run" in printed(without_engine(run_records(tmp_path)))


def test_write_replaces_all_four_and_leaves_nothing_else(tmp_path: Path) -> None:
    records = run_records(tmp_path / "store")
    for _ in range(2):
        path = files.write_report(records, tmp_path / "out", "fashion")
    assert path == tmp_path / "out" / "report.html"
    assert sorted(each.name for each in path.parent.iterdir()) == ["junit.xml", "report.html", "report.json", "report.md"]
    json.loads((path.parent / "report.json").read_text(encoding="utf-8"))
    assert (path.parent / "junit.xml").read_text(encoding="utf-8") == render_junit(records, "fashion")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formatting.format_microseconds(71.34), "71.3 µs"),
        (formatting.format_microseconds(999.9), "1000 µs"),
        (formatting.format_microseconds(1480), "1.48 ms"),
        (formatting.format_microseconds(2.5e6), "2.50 s"),
        (formatting.format_bytes(66_000), "66.0 kB"),
        (formatting.format_bytes(999), "999 B"),
        (formatting.format_count(1234567), "1\u202f234\u202f567"),
        (formatting.format_ratio(8.583), "8.58×"),
        (formatting.format_ratio(123.4), "123×"),
        (formatting.format_score(-0.00124), "−0.0012"),
        (formatting.format_score(-0.00001), "0.0000"),
        (formatting.format_change(0.0124), "+0.012"),
        (formatting.format_change(-0.0124), "−0.012"),
        (formatting.format_change(0.0001), "0.000"),
        (formatting.format_limit(-0.01), "−0.01"),
        (
            formatting.typeset_minus("drop -1.5e-05 (at least -.5), 2025-03-01, top-1"),
            "drop −1.5e−05 (at least −.5), 2025-03-01, top-1",
        ),
        (formatting.format_small(2.4e-06), "2.4e−06"),
        (formatting.format_small(-0.0068), "−0.0068"),
        (formatting.format_seconds(118.4), "1 min 58 s"),
        (formatting.format_seconds(59.97), "60.0 s"),
        (formatting.format_seconds(7325), "2 h 02 min"),
        (formatting.format_score(None), "–"),
        (formatting.format_range([-0.0012, 0.0142]), "−0.0012 to 0.0142"),
        (formatting.format_range([0.99998, 0.99999]), ""),
        (formatting.format_bounded(0.0111, [0.0081, 0.0142]), "0.0111 (0.0081 to 0.0142)"),
        (formatting.format_bounded(0.0111, None), "0.0111"),
        (formatting.format_sentence("a drop of -0.01"), "A drop of −0.01."),
        (formatting.format_sentence("Done!"), "Done!"),
        (formatting.format_sentence(""), ""),
        (formatting.strip_controls("a\x1b[31mb\x00c"), "abc"),
    ],
)
def test_words(shown: str, expected: str) -> None:
    assert shown == expected


ENGINE_METRICS: list[tuple[Metric, float, float, list[float] | None, str, str]] = [
    ("sound", 0, 0, None, "sound answers: yes, promised no NaN, no infinity, not constant", ""),
    ("sound", 0, 37, None, "sound answers: no, 37 samples, promised no NaN, no infinity, not constant", ""),
    ("score_drop", 0.025, -0.0002, [-0.001, 0.001], "score drop: −0.0002 (−0.0010 to 0.0010), promised at most 0.025",
     "margin +0.0252"),
    ("speedup", 3.0, 2.5, [2.4, 3.5], "speedup: 2.50× (2.40× to 3.50×), promised at least 3", "about 8,000 rounds would decide"),
    ("speedup", 3.0, 3.0, [2.9, 3.1], "speedup: 3.00× (2.90× to 3.10×), promised at least 3", "at the limit: no number decides"),
    ("largest_difference", 1e-3, 5.7e-6, None, "largest difference: 5.7e−06, promised at most 0.001", "margin +9.9e−04"),
    ("kdl", 0.005, 0.01, [0.01, 0.01], "KDL: 0.0100, promised at most 0.005", "margin −0.0050"),
]  # fmt: skip  # a gate, then its text


@pytest.mark.parametrize(("metric", "limit", "value", "bounds", "text", "details"), ENGINE_METRICS)
def test_gate_in_words(metric: Metric, limit: float, value: float, bounds: list[float] | None, text: str, details: str) -> None:
    texts = {"absolute": text, "previous": text.replace(":", " against model:", 1)}
    for baseline in ("absolute", "previous"):
        gate = gate_from_json(judged(metric, "engine", baseline, limit, value, bounds))
        assert gate_formatting.format_gate(gate) == f"engine {texts[baseline]}"
        assert gate_formatting.format_details(gate) == details


def test_gate_that_was_not_run_here_in_words() -> None:
    gate = Gate(Comparison("correlation", "engine", "teacher", None), 0.95, required=True)
    text = "engine correlation against the teacher: not run here, promised at least 0.95"
    assert gate_formatting.format_gate(gate) == text
