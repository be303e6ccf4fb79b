"""A target that is to be fast at two batch sizes: its slots, what feeds them, and lists that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.core.graph import SlotBinding
from attar.pipeline.recipe import recipe as recipes
from attar.recipes.workspace import open_workspace
from attar.stages.slots import SLOTS
from tests.support.proof.proof_parts import NAME

PAIR = 'optimize_for = [1, "throughput"]\ncandidates = [{ precision = "fp32" }, { precision = "int8" }]'


def load(folder: Path, target: str) -> dict[str, SlotBinding]:
    (folder / "recipe.toml").write_text(
        f'task = "{NAME}"\n[teacher]\nnetwork = "attar.models.networks.residual:residual"\n[student]\n'
        f'network = "attar.models.networks.residual:residual"\n[targets.cpu]\n{target}\n'
    )
    return recipes.load_recipe(folder / "recipe.toml", SLOTS).pipeline.slots


def test_choice_model_engine_evidence_and_verdict_are_there_twice_and_the_trials_once(tmp_path: Path) -> None:
    slots = load(tmp_path, PAIR)
    assert [name for name in slots if name.startswith("cpu-batch.")] == [
        f"cpu-batch.{name}" for name in ("choice", "model", "engine", "evidence", "verdict")
    ]
    assert slots["cpu-batch.choice"].inputs == {"trials": "cpu.trials"}
    assert slots["cpu-batch.engine"].inputs == {"choice": "cpu-batch.choice", "c1": "cpu.c1.engine", "c2": "cpu.c2.engine"}
    evidence = slots["cpu-batch.evidence"].inputs
    assert (evidence["engine"], evidence["production"], evidence["onnx"]) == ("cpu-batch.engine", "cpu.production", "onnx")
    bundle = slots["cpu.bundle"].inputs
    assert (bundle["single_choice"], bundle["batch_choice"]) == ("cpu.choice", "cpu-batch.choice")
    assert (bundle["engine"], bundle["batch_engine"], bundle["batch_verdict"]) == (
        "cpu.engine", "cpu-batch.engine", "cpu-batch.verdict",
    )  # fmt: skip  # three slots


def test_a_step_makes_what_belongs_to_it_of_both(tmp_path: Path) -> None:
    load(tmp_path, PAIR)
    workspace = open_workspace(str(tmp_path / "recipe.toml"), SLOTS, tmp_path / "store")
    assert workspace.list_slots("validate")[-2:] == ["cpu.verdict", "cpu-batch.verdict"]
    assert workspace.list_slots("build")[-2:] == ["cpu.engine", "cpu-batch.engine"]


def test_each_is_chosen_and_promised_at_its_own_batch_size(tmp_path: Path) -> None:
    slots = load(tmp_path, PAIR)
    for slot in ("choice", "evidence"):
        sizes = [getattr(slots[f"{owner}.{slot}"].stage, "optimize_for") for owner in ("cpu", "cpu-batch")]  # noqa: B009  # of any stage
        assert sizes == [1, "throughput"]


def test_one_size_is_one_engine_as_ever(tmp_path: Path) -> None:
    slots = load(tmp_path, "optimize_for = 32")
    assert not [name for name in slots if name.startswith("cpu-batch.")]
    assert "batch_engine" not in slots["cpu.bundle"].inputs


@pytest.mark.parametrize(
    "sizes", ["[]", "[1]", "[32]", "[1, 1]", "[32, 1]", "[1, 8, 32]", '["throughput", 32]', "[1, 'x']", "[1, true]"]
)
def test_a_list_that_is_not_1_and_a_larger_size_is_refused(sizes: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"optimize_for = .*; write optimize_for = \[1, 32\], .* or one size without a list"):
        load(tmp_path, PAIR.replace('[1, "throughput"]', sizes))


def test_throughput_of_batches_of_one_is_no_larger_size(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="two engines"):
        load(tmp_path, f"{PAIR}\nbatch = 1")


def test_a_single_form_is_no_choice_of_two(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match='one form of its engine; add candidates = "all", or name one size'):
        load(tmp_path, "optimize_for = [1, 32]")


def test_a_size_that_is_not_timed_is_refused_by_the_stage_that_times(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"targets\.cpu: .*set batch = 16"):
        load(tmp_path, PAIR.replace('"throughput"', "16"))
