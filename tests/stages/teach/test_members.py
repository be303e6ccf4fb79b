"""Several networks as one teacher: their probabilities are averaged, and it is stored, opened and exported as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from attar.engines.runtimes.torch import build_network
from attar.models.networks.averaged import average_outputs
from attar.models.tasks.digits import Digits
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Weights
from attar.stages.export.stage import Export
from attar.stages.teach.members import describe_average
from attar.stages.teach.stage import Teach
from tests.support.stages.training import make_out
from tests.support.tasks.smoke import DIGITS, RESIDUAL, artifact

OPTIONS = {"width": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "members"
    made.mkdir()
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(build_network(RESIDUAL, OPTIONS).state_dict(), made / f"{seed}.safetensors")
    return made


def teach(**settings: Any) -> Teach:
    return Teach(**{"task": DIGITS, "network": RESIDUAL, "options": OPTIONS, "device": "cpu", **settings})


def test_probabilities_are_averaged_by_hand() -> None:
    """3/4 and 1/4 in equal shares are 1/2; in shares of 3 to 1 they are 5/8."""
    sure, other = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
    even = average_outputs("logits", [sure + 5, other - 2], [0.5, 0.5])
    assert even.exp().tolist() == [pytest.approx([0.5, 0.5])]
    assert average_outputs("probabilities", [sure, other], [0.75, 0.25]).exp().tolist() == [pytest.approx([5 / 8, 3 / 8])]


def test_other_kinds_by_hand() -> None:
    sure, other = torch.tensor([3.0]).log(), torch.tensor([1 / 3]).log()  # sigmoids of 3/4 and 1/4
    assert average_outputs("multilabel", [sure, other], [0.75, 0.25]).sigmoid().tolist() == pytest.approx([5 / 8])
    assert average_outputs("values", [torch.tensor([2.0]), torch.tensor([6.0])], [0.75, 0.25]).tolist() == [3.0]
    turned = average_outputs("embedding", [torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.1]])], [0.5, 0.5])
    assert turned.tolist() == [pytest.approx([0.5, 0.5])]


def test_the_average_is_stored_opened_and_exported_as_one(tmp_path: Path, folder: Path) -> None:
    out = make_out(tmp_path)
    teacher = artifact(Weights, out, teach(members=folder, member_weights=(3.0, 1.0)).run(out))
    inputs = Digits().example(np.random.default_rng(0), batch=4)
    expected = np.zeros((4, 10))
    for name, share in (("0", 0.75), ("1", 0.25)):
        alone = make_out(tmp_path, name)
        member = artifact(Weights, alone, teach(weights=folder / f"{name}.safetensors").run(alone))
        with member.open() as predict:
            expected += share * torch.from_numpy(predict(inputs)["logits"]).softmax(-1).numpy()
    with teacher.open() as predict:
        np.testing.assert_allclose(np.exp(predict(inputs)["logits"]), expected, rtol=1e-4, atol=1e-6)
    assert teacher.facts["member"] == RESIDUAL
    assert teacher.facts["parameters"] == 2 * sum(each.numel() for each in build_network(RESIDUAL, OPTIONS).parameters())
    exported = Export(exporter="torchscript").run(make_out(tmp_path, "onnx"), weights=teacher)
    assert exported["task"] == DIGITS


def test_a_folder_of_one_is_refused(tmp_path: Path, folder: Path) -> None:
    (folder / "1.safetensors").unlink()
    with pytest.raises(StageError, match="1 safetensors"):
        teach(members=folder).run(make_out(tmp_path))


def test_weights_of_another_number_are_refused() -> None:
    with pytest.raises(StageError, match="member_weights"):
        describe_average(Digits(), RESIDUAL, OPTIONS, 2, (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"member_weights": (1.0, 2.0)}, "members"),
        ({"members": "x", "fine_tune": True}, "fine_tune"),
        ({"members": "x", "network": ""}, "network"),
        ({"members": "x", "weights": "y"}, "weights and members"),
        ({"members": "x", "member_weights": (0.0, 1.0)}, "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        teach(**settings)
