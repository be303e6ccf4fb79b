"""Rungs: what is tried in which order, what is kept on the way, and that exactly the node that was spoilt is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attar.engines.graphs.int8 import QuantizationSpec
from attar.engines.graphs.placement import SYMMETRIC, UNSIGNED, Placement
from attar.stages.optimize.fidelity import correlate_outputs, run_graph
from attar.stages.optimize.ladder import AttemptResult, run_attempts, select_best
from attar.stages.optimize.rungs import Fp16Attempts, Int8Attempts, list_powers_of_two
from tests.support.engines.graph_texts import OVERFLOWING, SEEN_RANGES, UNSEEN_RANGES, write_identity_chain, write_parsed_graph
from tests.support.tasks import smoke

GOOD = dict.fromkeys("xabcdy", (0.0, 99.5))
WIDE = GOOD | {"x": (0.0, 20000.0)}
WIDER = GOOD | {"x": (0.0, 30000.0)}


def climbed(folder: Path, floor: float, asked: QuantizationSpec, ranges: smoke.Known) -> tuple[Int8Attempts, list[AttemptResult]]:
    """On the float graph's own answers; nothing is trained."""
    source, task = write_identity_chain(folder), smoke.ThreeNumbers()
    exact = run_graph(source, task)
    plan = Int8Attempts(source, ranges, asked, task, None)
    return plan, run_attempts(plan, lambda file: correlate_outputs(task, exact, run_graph(file, task), {}), floor, folder)


@pytest.mark.parametrize(("placement", "kept"), [(UNSIGNED, "float"), (SYMMETRIC, "half")])
def test_the_node_that_was_spoilt_is_left_out_and_no_other(tmp_path: Path, placement: Placement, kept: str) -> None:
    """In float where a CPU runs it, in half precision where TensorRT does."""
    plan, tried = climbed(tmp_path, 0.999, QuantizationSpec(placement), smoke.known(WIDE))
    assert [each.name for each in tried] == ["per-channel", "percentile", "entropy", "mse", "without-1"]
    assert tried[-1].correlation > 0.999 > tried[-2].correlation
    named = {"MatMul_0": f"costs {plan.costs['MatMul_0']:.2g} of the correlation"}
    assert tried[-1].facts["quantized"] == {"MatMul": 3}
    assert tried[-1].facts[kept].items() >= named.items()
    assert tried[-1].facts["float"].keys() == ({"MatMul_0"} if kept == "float" else set()) | {"MatMul_4"}


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_what_half_precision_cannot_hold_is_in_float_on_tensorrt_too(tmp_path: Path, method: str) -> None:
    """Also if the range method leaves out the few values that overflow."""
    seen = smoke.known(GOOD | {"x": (0.0, 40000.0)}, percentile=WIDE)
    _, tried = climbed(tmp_path, 0.999, QuantizationSpec(SYMMETRIC, method=method), seen)
    assert tried[-1].name == "without-1"
    assert tried[-1].facts["float"]["MatMul_0"].endswith("'x' reaches 4e+04")


def test_the_best_ranges_are_kept_for_what_follows(tmp_path: Path) -> None:
    _, tried = climbed(tmp_path, 0.9999999, QuantizationSpec(method="mse"), smoke.known(WIDE, percentile=GOOD, entropy=WIDER))
    assert [each.name for each in tried] == ["per-channel", "percentile", "entropy", "without-1", "without-2"]
    assert [each.facts["range_method"] for each in tried] == ["mse", "percentile", "entropy", "percentile", "percentile"]
    assert tried[1].correlation > tried[0].correlation


def test_a_scale_a_channel_comes_first(tmp_path: Path) -> None:
    _, tried = climbed(tmp_path, 0.9, QuantizationSpec(per_channel=False), smoke.known(GOOD))
    assert [each.name for each in tried] == ["per-tensor"]
    _, tried = climbed(tmp_path, 0.9999999, QuantizationSpec(per_channel=False), smoke.known(GOOD))
    assert [each.name for each in tried][:3] == ["per-tensor", "per-channel", "percentile"]


def test_half_of_what_multiplies_stays_in_int8(tmp_path: Path) -> None:
    """Of four products two may be left out."""
    _, tried = climbed(tmp_path, 0.9999999, QuantizationSpec(), smoke.known(WIDER))
    assert tried[-1].name == "without-2"
    assert tried[-1].facts["quantized"] == {"MatMul": 2}


def test_what_is_trained_starts_from_the_best_and_ends_in_its_form(tmp_path: Path) -> None:
    """The training here is a copy; it sees a graph without halves, and its weights go into one with them."""
    seen: list[bytes] = []

    def tune(source: Path, quantized: Path, floats: Path, levels: int) -> dict[str, Any]:
        seen.append(quantized.read_bytes())
        floats.write_bytes(source.read_bytes())
        return {"history": []}

    source, task = write_identity_chain(tmp_path), smoke.ThreeNumbers()
    exact = run_graph(source, task)
    plan = Int8Attempts(source, smoke.known(WIDER), QuantizationSpec(SYMMETRIC), task, tune)
    tried = run_attempts(plan, lambda file: correlate_outputs(task, exact, run_graph(file, task), {}), 0.9999999, tmp_path)
    assert tried[-1].name == "distillation"
    kept = select_best(tried[:-1])
    assert kept.name.startswith("without-")
    assert tried[-1].facts == {**kept.facts, "tuning": {"history": []}}
    assert tried[-1].file.read_bytes() == kept.file.read_bytes()
    assert b"_half" in kept.file.read_bytes()
    assert b"_half" not in seen[0]


def test_fp16_gets_more_and_more_islands(tmp_path: Path) -> None:
    text = OVERFLOWING.replace("{1000}", "{1}").replace("{0.001}", "{100.5}")  # 0.0005 of it is rounded away at most
    plan = Fp16Attempts(write_parsed_graph(tmp_path, text), UNSEEN_RANGES, smoke.ThreeNumbers(), ())
    tried = run_attempts(plan, lambda file: 0.5, 0.9, tmp_path)
    assert [each.name for each in tried] == ["within-0.1", "within-0.01", "within-0.001"]
    assert all(each.facts["half"] for each in tried)
    tried = run_attempts(
        Fp16Attempts(write_parsed_graph(tmp_path, OVERFLOWING), SEEN_RANGES, smoke.ThreeNumbers(), ()),
        lambda file: 0.95,
        0.9,
        tmp_path,
    )
    assert [each.name for each in tried] == ["within-0.1"]


def test_powers() -> None:
    assert [list_powers_of_two(most) for most in (0, 1, 3, 8)] == [[], [1], [1, 2], [1, 2, 4, 8]]
