"""Labelling: the stored answers are the teacher's to exactly the views that a student reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attar.models import views
from attar.models.sample_order import digest_order
from attar.models.task import (
    load_task,
)
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.pipeline.core.stage import open_scratch
from attar.pipeline.recipe.recipe import load_recipe
from attar.pipeline.store.file_cache import open_file_cache
from attar.proof.checks.sizes import compute_difference
from attar.stages.artifacts import Answers, OnnxModel, Weights
from attar.stages.label.stage import Label
from attar.stages.measure.stored import check_answers
from attar.stages.slots import SLOTS
from tests.support.stages.labelling import label_with, predict_view
from tests.support.stages.training import READER, SENTENCES, InterruptError, interrupt_at, make_out
from tests.support.tasks.smoke import DIGITS, weights


@pytest.fixture(params=["digits", "sentences"])
def teacher(request: pytest.FixtureRequest, tmp_path: Path, digits_weights: Weights) -> Weights:
    return digits_weights if request.param == "digits" else weights(tmp_path / "teacher", READER, SENTENCES)


def test_answers_belong_to_their_view(tmp_path: Path, teacher: Weights) -> None:
    task = load_task(teacher.facts["task"])
    answers = label_with(teacher, make_out(tmp_path), view_seed=5)
    for view in range(2):
        seen = views.make_chunk(task, task.split("train"), 1, seed=5, view=view)
        for name, expected in predict_view(task, teacher, seen).items():
            stored = answers.open_rows("train", view)[name]
            assert len(stored) == len(task.split("train"))
            assert stored[seen.indices].tobytes() == expected.astype(np.float16).astype(np.float32).tobytes()


def test_a_recipe_sets_the_hypothesis_and_pins_the_teacher_alone(tmp_path: Path) -> None:
    sections = "".join(f"[{name}]\nnetwork = {READER!r}\n" for name in ("teacher", "student"))
    (tmp_path / "recipe.toml").write_text(f"task = {DIGITS!r}\n{sections}")
    overrides = ("teacher.keep='3c7a8e4b'", "answers.beam=4", "answers.hypothesis='closest'")
    slots = load_recipe(tmp_path / "recipe.toml", SLOTS, overrides).pipeline.slots
    assert [slots[name].keep for name in ("teacher", "answers")] == ["3c7a8e4b", None]
    assert slots["answers"].stage == Label(task=DIGITS, beam=4, hypothesis="closest")


def test_clean_answers_are_float32(tmp_path: Path, teacher: Weights) -> None:
    task = load_task(teacher.facts["task"])
    answers = label_with(teacher, make_out(tmp_path))
    for split in ("validation", "test"):
        seen = views.make_chunk(task, task.split(split), 0)
        for name, expected in predict_view(task, teacher, seen).items():
            stored = answers.read_split(split)[name]
            assert stored.dtype == np.float32
            assert stored[seen.indices].tobytes() == expected.tobytes()


def test_facts_and_files(tmp_path: Path, digits_weights: Weights) -> None:
    answers = label_with(digits_weights, make_out(tmp_path))
    assert answers.facts == {
        "task": DIGITS,
        "views": 2,
        "seed": 0,
        "samples": {"train": 1197, "validation": 300, "test": 300},
        "orders": {"train": digest_order(1197)},
        "outputs": ["logits"],
        "device": "cpu",
        "precision": "fp32",
    }
    names = [f"{name}.00000.safetensors" for name in ("test.clean", "train.0", "train.1", "validation.clean")]
    assert sorted(path.name for path in answers.root.iterdir()) == names


@pytest.mark.parametrize("orders", [{}, {"train": digest_order(1196)}], ids=["none", "another"])
def test_answers_in_another_order_are_refused(tmp_path: Path, digits_weights: Weights, orders: dict[str, str]) -> None:
    """Such as pinned ones of an earlier attar: each would be paired with the wrong sample, and the student learn nonsense."""
    answers = label_with(digits_weights, make_out(tmp_path), views=1)
    earlier = Answers(answers.key, answers.digest, answers.root, {**answers.facts, "orders": orders})
    with pytest.raises(StageError, match=r"`keep` from \[answers\]"):
        earlier.open_learned_rows(0)
    assert earlier.read_split("test")["logits"].shape == (300, 10)


def test_an_interruption_costs_no_finished_shard(tmp_path: Path, digits_weights: Weights) -> None:
    whole, broken = label_with(digits_weights, make_out(tmp_path, "whole")), make_out(tmp_path, "broken")
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(1197 + views.PIECE_SAMPLES)):  # within the second shard
        label_with(digits_weights, broken)
    marks = {path.name: path.stat().st_mtime_ns for path in open_file_cache(broken).folder.iterdir()}
    assert len(marks) == 2  # a shard and its note
    again = label_with(digits_weights, broken)
    assert {path.name: path.stat().st_mtime_ns for path in open_file_cache(broken).folder.iterdir()}.items() > marks.items()
    for path in whole.root.iterdir():
        assert (again.root / path.name).read_bytes() == path.read_bytes()


def test_a_labelling_that_goes_on_with_another_device_names_both(tmp_path: Path, digits_weights: Weights) -> None:
    out = make_out(tmp_path)
    whole = label_with(digits_weights, out)
    note = open_scratch(out) / "train.0.00000.safetensors"
    device, _, file = note.read_text(encoding="utf-8").partition("\n")
    assert whole.facts["device"] == device == "cpu"
    note.write_text(f"cuda\n{file}", encoding="utf-8")
    shutil.rmtree(out)
    assert label_with(digits_weights, make_out(tmp_path)).facts["device"] == "cpu, cuda"


class Loud(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.factor = factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(image.flatten(1))  # (B, 1, 8, 8) -> (B, 10)
        return made * self.factor


@pytest.mark.parametrize(
    ("factor", "message"),
    [(1e9, "float16 cannot hold"), (float("nan"), r"'logits' is NaN for sample \d+ of train, whose inputs are all fin")],
)
def test_answers_that_cannot_be_stored(tmp_path: Path, factor: float, message: str) -> None:
    teacher = weights(tmp_path / "teacher", "tests.stages.label.test_label:Loud", DIGITS, factor=factor)
    with pytest.raises(StageError, match=message):
        label_with(teacher, make_out(tmp_path))


def test_a_teacher_labels_in_the_precision_that_is_asked_for(tmp_path: Path, digits_weights: Weights) -> None:
    exact, rounded = (
        label_with(digits_weights, make_out(tmp_path, precision), precision=precision) for precision in ("fp32", "bf16")
    )
    assert rounded.facts["precision"] == "bf16"
    apart = compute_difference(exact.read_split("test")["logits"], rounded.read_split("test")["logits"])
    assert 0 < apart < 0.05  # bf16 keeps 8 bits
    check_answers(load_task(DIGITS), digits_weights, rounded)


def test_a_graph_labels_in_its_own_precision(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    with pytest.raises(StageError, match="precision = 'bf16'"):
        Label(task=DIGITS, precision="bf16").run(make_out(tmp_path), teacher=digits_onnx)


def test_precision_counts_in_the_key_and_the_device_does_not() -> None:
    assert "precision" in Label(task=DIGITS).deciding()
    assert "device" not in Label(task=DIGITS).deciding()
