"""Pooled features: means by hand, padding left out, parts of a batch joined in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch_features import average_positions, check_samples, mask_tokens, pool_features
from attar.models.task import Arrays, Task
from attar.models.task import Tensor as Input
from attar.pipeline.core.errors import StageError
from tests.support.tasks.smoke import floats, stored
from tests.support.tasks.token_task import TokenSentences

TOKENS = {"tokens": np.array([[5, 6, 0], [7, 8, 9]]), "mask": np.array([[1, 1, 0], [1, 1, 1]], np.float32)}
STATES = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[0.0, 0.0], [1.0, 2.0], [5.0, 1.0]]])  # (2, 3, 2)


def test_rows_stay_and_maps_are_averaged_over_places() -> None:
    rows = torch.tensor([[1.0, 2.0]])
    maps = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[0.0, 0.0], [0.0, 2.0]]]])  # (1, 2, 2, 2)
    assert torch.equal(average_positions(rows), rows)
    assert average_positions(maps).tolist() == [[4.0, 0.5]]
    assert average_positions(maps[..., None]).tolist() == [[4.0, 0.5]]


def mask(task: Task, inputs: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(found) for name, found in mask_tokens(task, inputs).items()}


def test_padding_is_no_position() -> None:
    """(1 + 3) / 2 and (2 + 6) / 2: the third state of the first text is padding."""
    assert pool_features(STATES, mask(TokenSentences(), TOKENS), "it").tolist() == [[2.0, 4.0], [2.0, 1.0]]
    assert average_positions(STATES)[0].tolist() == pytest.approx([104 / 3, 36.0])
    nothing = average_positions(STATES[:1], torch.zeros(1, 3, dtype=torch.bool))
    assert nothing.tolist() == [[0.0, 0.0]]


class TwoTexts(TokenSentences):
    inputs = {
        "left": Input("int64", ("batch", "sequence"), high=9, pad=0),
        "right": Input("int64", ("batch", "other"), high=9, pad=0),
    }


@pytest.mark.parametrize(
    ("task", "features", "told"),
    [
        (TokenSentences(), torch.zeros(2, 4, 2), "4 positions for 3 tokens"),
        (TwoTexts(), STATES, "left, right each declare padding"),
        (TokenSentences(), torch.zeros(2), "name another layer"),
    ],
)
def test_what_is_no_row_a_sample_is_refused(task: TokenSentences, features: Tensor, told: str) -> None:
    inputs = TOKENS if "tokens" in task.inputs else dict.fromkeys(task.inputs, TOKENS["tokens"])
    with pytest.raises(StageError, match=told):
        pool_features(features, mask(task, inputs), "layer 'x'")


def test_a_sample_has_one_row() -> None:
    with pytest.raises(StageError, match="6 rows for 2 samples"):
        check_samples(torch.zeros(6, 2), 2, "layer 'x'")


class Crowded(nn.Module):
    """Has memory for three samples, and for two if the first of them is the fourth of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, point: Tensor) -> Tensor:
        hidden = self.first(point)
        if len(point) > (2 if point[0, 0] == 6 else 3):
            raise torch.OutOfMemoryError
        made: Tensor = self.last(hidden)
        return made


def test_parts_that_had_no_memory_leave_no_rows(tmp_path: Path) -> None:
    """The first half was answered, the second had no memory, and all is asked again in smaller parts."""
    torch.manual_seed(0)
    module = Crowded()
    teacher = stored(tmp_path, module, f"{__name__}:Crowded", "tests.support.tasks.ring_task:Ring", {})
    points = np.arange(12, dtype=np.float32).reshape(6, 2)
    with teacher.open(layers=["first"]) as predict:
        features = floats(predict({"point": points})["first.features"])
    np.testing.assert_allclose(features, module.first(torch.from_numpy(points)).detach().numpy(), rtol=1e-6)
