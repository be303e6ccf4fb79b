"""The report: pure functions of records, whole, broken, partial and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from attar.proof.report.data import build_data
from attar.proof.report.formats.html import render_html
from attar.proof.report.formats.markdown import render_markdown
from attar.proof.report.target import Target, group_targets
from tests.support.proof.report_facts import CLASSES
from tests.support.proof.report_records import (
    Made,
    ParsedPage,
    broke,
    changed,
    gate_rows,
    hop_rows,
    parsed,
    printed,
    run_records,
    without_engine,
)

HOSTILE = "<script>alert('1')</script> | `x` & \"y\" $\\alpha$ [red]"


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Made], str]:
    """A run that passed, and its page."""
    records = run_records(tmp_path_factory.mktemp("passed"))
    return records, render_html(records, "fashion")


# the page


def test_page_holds_every_figure_and_asks_for_nothing(tmp_path: Path) -> None:
    page = ParsedPage(text := render_html(run_records(tmp_path, targets=("cpu", "server")), "fashion"))
    assert page.tags.count("figure") == page.classes.count("svg plot") == 2 * 9 + 3
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    assert "@import" not in text
    assert "url(http" not in text


def test_same_records_same_page(passed: tuple[list[Made], str]) -> None:
    records, text = passed
    assert render_html(records, "fashion") == text


def test_page_says_what_was_found(passed: tuple[list[Made], str]) -> None:
    text = " ".join(ParsedPage(passed[1]).text.split())
    for said in ("passed", "0.9121", "8.58×", "20.8×", "42.3× smaller", "2025-03-01 12:34 UTC", "Example CPU", *CLASSES):
        assert said in text
    assert "Distillation was not needed" in text


def test_stand_in_colours_are_all_replaced(passed: tuple[list[Made], str]) -> None:
    from attar.proof.report.figures.style import VARIABLES

    assert not [stand_in for stand_in in VARIABLES if stand_in in passed[1]]


def test_first_broken_hop_is_marked(tmp_path: Path) -> None:
    page = ParsedPage(render_html(run_records(tmp_path, broken=True), "fashion"))
    assert page.classes.count("span flag") == 2
    assert "What broke" not in page.text, "a refused bundle is a result, not a breakage"
    assert "refused" in page.text


def test_values_have_no_classes_and_no_agreement(tmp_path: Path) -> None:
    page = ParsedPage(render_html(run_records(tmp_path, classes=[]), "prices"))
    assert "Agreement" not in page.text
    assert "Accuracy by class" not in page.text
    assert "Values: teacher and engine" in page.text


def test_engine_that_did_not_run_here(tmp_path: Path) -> None:
    text = ParsedPage(render_html(without_engine(run_records(tmp_path)), "fashion")).text
    assert "needs a GPU" in text
    assert "numbers of the model" in text
    assert "Logits: teacher and model" in text


def test_failed_run_shows_the_error_and_what_there_is(tmp_path: Path) -> None:
    page = ParsedPage(render_html(broke(run_records(tmp_path), "student", "loss is NaN in epoch 2"), "fashion"))
    assert "loss is NaN in epoch 2" in page.text
    assert "student failed" in page.text
    assert page.classes.count("svg plot") == 2, "the teacher's curves"


@pytest.mark.parametrize("slot", ["teacher", "onnx", "cpu.evidence", "cpu.verdict", "cpu.bundle"])
def test_every_slot_may_fail(tmp_path: Path, slot: str) -> None:
    records = broke(run_records(tmp_path), slot, "out of luck")
    assert "out of luck" in ParsedPage(render_html(records, "fashion")).text
    assert "out of luck" in render_markdown(records, "fashion")
    assert parsed(records, "fashion").attrib["errors"] == "1"
    json.dumps(build_data(records), allow_nan=False)
    printed(records)


def test_no_records() -> None:
    assert "No target was reached" in render_html([], "nothing")
    assert build_data([]) == {"slots": [], "targets": {}}
    assert parsed([], "nothing").attrib["tests"] == "0"


def test_damaged_outputs_are_said_and_the_rest_stands(tmp_path: Path) -> None:
    records = run_records(tmp_path)
    (tmp_path / "cpu.evidence" / "hops.safetensors").write_bytes(b"not tensors")
    page = ParsedPage(render_html(records, "fashion"))
    assert "cannot be read" in page.text
    assert page.classes.count("svg plot") == 9


def test_missing_outputs_are_said(tmp_path: Path) -> None:
    records = run_records(tmp_path)
    (tmp_path / "cpu.evidence" / "hops.safetensors").unlink()
    assert "cannot be read" in ParsedPage(render_html(records, "fashion")).text


def test_many_classes_show_the_hardest(tmp_path: Path) -> None:
    page = ParsedPage(render_html(run_records(tmp_path, classes=[f"class {n}" for n in range(40)]), "many"))
    assert "Of 40 classes, the 16 with the lowest agreement." in page.text


def test_slower_engine_is_called_slower(tmp_path: Path) -> None:
    records = run_records(tmp_path)
    hops = [
        dict(hop, latency={"1": {"p50": 1224.0, "p99": 1300.0, "throughput": 817.0}, "32": hop["latency"]["32"]})
        if hop["hop"] == "engine"
        else hop
        for hop in hop_rows(records)
    ]
    text = ParsedPage(render_html(changed(records, "cpu.evidence", hops=hops), "fashion")).text
    assert "The engine is 2.00× slower than the reference and 1.21× faster than the teacher in PyTorch eager." in " ".join(
        text.split()
    )


def test_a_teacher_in_onnx_is_not_said_to_run_in_pytorch(tmp_path: Path) -> None:
    records = run_records(tmp_path)
    hops = [dict(hop, format="ONNX") if hop["hop"] == "teacher" else hop for hop in hop_rows(records)]
    text = ParsedPage(render_html(changed(records, "cpu.evidence", hops=hops), "fashion")).text
    assert "PyTorch eager" not in text
    assert text.count("the teacher in ONNX Runtime") == 2


def promised(records: Sequence[Made], gate: str, limit: float) -> str:
    """The page, had the recipe promised this."""
    gates = [{**row, "limit": limit} if row["gate"] == gate else row for row in gate_rows(records)]
    return render_html(changed(records, "cpu.verdict", gates=gates), "fashion")


def test_promise_far_below_is_said_and_not_drawn(tmp_path: Path) -> None:
    records = run_records(tmp_path)
    page = render_html(records, "fashion")
    assert (page.count(">promised<"), page.count("the dashed line")) == (3, 3)
    for gate, limit, said in (("score_drop", 1.5, "−0.5729"), ("correlation", -0.5, "−0.5000"), ("correlation", 0.3, "0.3000")):
        page = promised(records, gate, limit)
        assert (page.count(">promised<"), page.count("the dashed line")) == (2, 2)
        assert f"The engine is promised at least {said}, which lies left of this axis." in page


def test_long_tail_does_not_squash_the_bars(tmp_path: Path) -> None:
    from attar.proof.report.figures import speed

    records = run_records(tmp_path)
    calm = group_targets(records)[0]
    latency = {"1": {"p50": 50.0, "p99": 6500.0, "throughput": 20000.0}}
    hops = [{**hop, "latency": latency} for hop in hop_rows(records)]
    preempted = group_targets(changed(run_records(tmp_path / "again"), "cpu.evidence", hops=hops))[0]
    assert "logarithmic" not in speed.draw_panels(calm)[0].caption
    assert "The axis is logarithmic." in speed.draw_panels(preempted)[0].caption


def test_ring_of_the_teacher_lies_over_an_equal_dot() -> None:
    from attar.proof.report.figures import answers, style

    drawn: list[tuple[str, float]] = []
    table = answers.ByClass(["only"], [0.9], [0.9], [1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "ring", lambda axes, x, y, fill, edge, size: drawn.append((fill, size)))
        answers.draw_accuracies(Target("cpu", [], []), table, "engine")
    (dot, inner), (hollow, outer) = drawn
    assert (dot, hollow) == (style.ENGINE, "none")
    assert outer > inner


def test_made_for_the_first_time_is_new(passed: tuple[list[Made], str]) -> None:
    assert "never made" not in passed[1]
    assert '<td class="reads">new</td>' in passed[1]


def test_adopted_teacher_has_no_curve(tmp_path: Path) -> None:
    from attar.proof.report.figures import training

    records = changed(run_records(tmp_path), "teacher", history=[], best_epoch=0)
    assert ">teacher<" not in "".join(panel.svg for panel in training.draw_panels(records, "accuracy"))


def test_what_the_distiller_noted_is_drawn_where_there_was_one(tmp_path: Path) -> None:
    from attar.proof.report.figures import training

    noted = [
        {"epoch": epoch, "loss": 1.0, "score": 0.9, "kdl": 0.1 / epoch, "teacher_attention_on_wrong": 1 + epoch / 10}
        for epoch in (1, 2, 3)
    ]
    records = run_records(tmp_path)
    without = {panel.title for panel in training.draw_panels(records, "accuracy")}
    panels = {panel.title: panel.svg for panel in training.draw_panels(changed(records, "student", history=noted), "accuracy")}
    assert panels.keys() - without == {"Validation KDL", "Attention"}
    assert ">of teacher<" in panels["Attention"]
    assert ">of student<" not in panels["Attention"], "there was no Student Attention"


# hostile names


def test_names_from_outside_are_text(tmp_path: Path) -> None:
    records = run_records(tmp_path, classes=[HOSTILE, *CLASSES[1:]], broken=True)
    records = changed(records, "cpu.verdict", summary=HOSTILE)
    records = broke(records, "cpu.bundle", f"{HOSTILE}\x00\x1b[31m")
    page = ParsedPage(render_html(records, HOSTILE))
    assert "script" not in page.tags
    assert page.text.count("<script>alert('1')</script>") >= 3
    assert "\x00" not in page.text
    said = render_markdown(records, HOSTILE)
    assert "\n# \\<script\\>alert" in "\n" + said
    assert "\\| \\`x\\`" in said
    assert HOSTILE in " ".join(printed(records, 400).split())
    assert HOSTILE in parsed(records, HOSTILE).attrib["name"]


def test_markdown_fence_outlasts_the_error(tmp_path: Path) -> None:
    said = render_markdown(broke(run_records(tmp_path), "student", "```\n# free"), "fashion")
    assert "````\n```\n# free\n````" in said


def test_markdown_fence_outlasts_an_error_that_hides_one_among_controls(tmp_path: Path) -> None:
    said = render_markdown(broke(run_records(tmp_path), "student", "a\n``\x00`\n# free"), "fashion")
    assert "````\na\n```\n# free\n````" in said
