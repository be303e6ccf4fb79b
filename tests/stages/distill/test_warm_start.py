"""Warm start: which tensors an earlier student gives, what is said of the others, and that the recipe's key leads to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.stage import Control, Distill
from attar.stages.distill.warm_start import WarmStart, find_fitting_tensors
from attar.stages.label.stage import Label
from attar.stages.learning.settings import TrainingSettings
from tests.support.projects import tiny
from tests.support.stages.training import make_out
from tests.support.tasks.smoke import DIGITS, NOBODY, RESIDUAL, artifact, weights

RESNET = "attar.models.networks.resnet:resnet"


def settings(network: str = RESIDUAL, **options: Any) -> TrainingSettings:
    return Distill(task=DIGITS, network=network, options=options)


def networks(wide: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, wide), nn.BatchNorm1d(wide), nn.Linear(wide, 2))


def test_equal_names_and_shapes_fit_and_buffers_follow_their_layer() -> None:
    names = find_fitting_tensors(networks(8), networks(6).state_dict())
    first = ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert names == [*first, "4.bias"]  # 3.num_batches_tracked has no shape, but its layer another width


def test_what_fits_is_copied_and_the_rest_begins_anew(tmp_path: Path) -> None:
    """width 4, two blocks a stage, from one block: by hand, what both have is everything of the first block of each stage."""
    earlier = weights(tmp_path, RESNET, DIGITS, depth=8, width=4, channels=1, classes=10)
    tensors = load_file(tmp_path / "weights.safetensors")
    tensors["layer1.0.conv1.weight"] = torch.zeros(3, 3)
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, tmp_path / "weights.safetensors")
    warm = WarmStart(settings(RESNET, depth=14, width=4, channels=1, classes=10), earlier)
    torch.manual_seed(7)
    made = warm().state_dict()
    torch.manual_seed(7)
    fresh = WarmStart(settings(RESNET, depth=14, width=4, channels=1, classes=10), earlier)().state_dict()
    new_ones = [name for name in made if name not in tensors]
    assert all(name.split(".")[1] == "1" for name in new_ones)
    assert {name for name in made if name in tensors and torch.equal(made[name], tensors[name])} == made.keys() - {
        *new_ones,
        "layer1.0.conv1.weight",
    }
    assert all(torch.equal(made[name], fresh[name]) for name in made)  # what is new is decided by the seed
    assert warm.facts["matched"] == len(made) - len(new_ones) - 1
    assert warm.facts["key"] == earlier.key
    assert "layer1.0.conv1.weight: [3, 3] there, [4, 2, 3, 3] here" in warm.facts["other"]
    assert "layer2.1.bn2.running_var: not there" in warm.facts["other"]
    assert len(warm.facts["other"]) == len(new_ones) + 1


def test_the_share_is_that_of_the_parameters(tmp_path: Path) -> None:
    warm = WarmStart(settings(width=4), weights(tmp_path, RESIDUAL, DIGITS, width=4))
    warm()
    assert (warm.facts["parameters"], warm.facts["other"]) == (1.0, [])
    wider = WarmStart(settings(width=8), weights(tmp_path, RESIDUAL, DIGITS, width=4))
    total = sum(parameter.numel() for parameter in wider().parameters())
    assert wider.facts["matched"] == 1  # the bias of the ten classes
    assert wider.facts["parameters"] == pytest.approx(10 / total, abs=1e-6)


def test_nothing_that_fits_is_an_error_that_names_some_of_both(tmp_path: Path) -> None:
    earlier = weights(tmp_path, RESNET, DIGITS, depth=8, width=4, channels=1)
    with pytest.raises(StageError, match=r"start = '0{12}' .*stem\.0"):
        WarmStart(settings(width=4), earlier)()


def test_a_control_that_is_off_has_nothing_to_give(tmp_path: Path) -> None:
    out = make_out(tmp_path)
    off = artifact(Weights, out, Control(task=DIGITS, network=RESIDUAL).run(out))
    with pytest.raises(StageError, match=r"control .*student's key"):
        WarmStart(settings(width=4), off)()


def test_the_control_does_not_take_it() -> None:
    assert "start" not in Control.model_fields
    inputs = Distill.inputs()
    assert list(inputs) == ["teacher", "answers", "start"]
    assert (inputs["start"].kind, inputs["start"].role) == (Weights, "optional")


def test_a_student_goes_on_from_there(tmp_path: Path) -> None:
    """At a learning rate of almost nothing it ends where it began."""
    out, earlier = make_out(tmp_path), weights(tmp_path / "earlier", RESIDUAL, DIGITS, width=4)
    answers = artifact(Answers, out, Label(task=DIGITS, views=1).run(out, teacher=earlier))
    stage = Distill(task=DIGITS, network=RESIDUAL, options={"width": 4}, epochs=1, learning_rate=1e-9, precision="fp32")
    facts = stage.run(out := make_out(tmp_path, "later"), teacher=NOBODY, answers=answers, start=earlier)
    before, after = (load_file(folder / "weights.safetensors") for folder in (earlier.root, out))
    trained = [name for name in before if name.endswith(("weight", "bias"))]
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in trained)
    assert facts["started_from"] == {"key": earlier.key, "matched": len(before), "parameters": 1.0, "other": []}


@pytest.mark.slow
def test_a_recipe_names_an_earlier_student_by_its_key(tmp_path: Path) -> None:
    key = distilled(tmp_path, tiny.NETS)["key"]
    deeper = tiny.NETS.replace("nn.ReLU(), nn.Linear(width, 2))", "nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 2))")
    warm = ("--set", f"student.start='{key[:10]}'")
    found = distilled(tmp_path, deeper, *warm)
    assert (found["facts"]["started_from"]["key"], found["facts"]["started_from"]["matched"]) == (key, 2)
    assert f"start is student {key[:12]}" in found["reason"]
    assert f"start is student {key[:12]}" in tiny.attar(tmp_path, "plan", "recipe.toml", *warm).stdout
    wrong = tiny.attar(tmp_path, "distill", "recipe.toml", "--set", "student.start='0123456789'")
    assert wrong.returncode == 2
    assert "student.start = '0123456789': no artifact in" in wrong.stderr


def distilled(folder: Path, nets: str, *arguments: str) -> dict[str, Any]:
    """What ``attar distill`` says of the student."""
    tiny.write(folder, nets=nets)
    done = tiny.attar(folder, "distill", "recipe.toml", "--json", "--set", "teacher.epochs=1", *arguments)
    assert done.returncode == 0, done.stderr
    return tiny.entry(json.loads(done.stdout), "student")
