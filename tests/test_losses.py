"""Losses against numbers worked by hand, and their gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from attar.stages.distillation.losses import Kd, Loss, Mse, cross_entropy, kd, mse

LN2, LN3 = math.log(2), math.log(3)


def test_kd_by_hand() -> None:
    teacher = torch.tensor([[LN3, 0.0]])  # softmax: 3/4, 1/4
    student = torch.tensor([[0.0, 0.0]])  # softmax: 1/2, 1/2
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)


def test_kd_at_temperature_two_by_hand() -> None:
    teacher = torch.tensor([[2 * LN3, 0.0]])  # divided by T: 3/4, 1/4
    student = torch.tensor([[2 * LN2, 0.0]])  # divided by T: 2/3, 1/3
    expected = 0.75 * math.log(0.75 * 3 / 2) + 0.25 * math.log(0.25 * 3)
    assert kd(student, teacher, 2.0).item() == pytest.approx(4 * expected, abs=1e-6)


def test_kd_is_the_mean_over_rows_and_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5, generator=generator)
    rows = [kd(s[None], t[None], 3.0) for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True)]
    assert kd(student, teacher, 3.0).item() == pytest.approx(torch.stack(rows).mean().item(), rel=1e-5)


def test_kd_ignores_what_softmax_ignores() -> None:
    student, teacher = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(1))
    assert kd(student + 5, teacher - 7, 4.0).item() == pytest.approx(kd(student, teacher, 4.0).item(), abs=1e-5)
    assert kd(teacher, teacher, 4.0).item() == pytest.approx(0, abs=1e-6)


def test_kd_nears_mse_of_centred_logits_when_hot() -> None:
    """Hinton et al. 2015, eq. 4: at a high temperature the gradient is that of the squared difference over 2 * classes."""
    student, teacher = (x.double() for x in torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(2)))
    centred = [x - x.mean(1, keepdim=True) for x in (student, teacher)]
    assert kd(student, teacher, 1000.0).item() == pytest.approx(mse(*centred).item() / 2, rel=1e-2)


def test_mse_by_hand() -> None:
    assert mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 2.5


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[LN3, 0.0], [0.0, 0.0]])
    assert cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx((math.log(4 / 3) + LN2) / 2, abs=1e-6)


def test_label_smoothing_by_hand() -> None:
    logits = torch.tensor([[LN3, 0.0]])
    expected = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)  # 0.2 of the target goes to both classes alike
    assert cross_entropy(logits, torch.tensor([0]), smoothing=0.2).item() == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_reads_a_label_for_each_position() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([[0, 1, 2], [3, 4, 0]])
    assert cross_entropy(logits, labels).item() == pytest.approx(cross_entropy(logits.flatten(0, 1), labels.flatten()).item())


@pytest.mark.parametrize("loss", [Kd(temperature=3.0), Mse()])
def test_gradients(loss: Loss) -> None:
    student, teacher = (x.double() for x in torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(4)))
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


def test_a_recipe_picks_by_kind() -> None:
    adapter: TypeAdapter[Loss] = TypeAdapter(Loss)
    assert adapter.validate_python({"kind": "kd", "temperature": 2}) == Kd(temperature=2.0)
    assert adapter.validate_python({"kind": "mse", "output": "value"}) == Mse(output="value")


@pytest.mark.parametrize(
    "data", [{"kind": "kdd"}, {"kind": "kd", "temperature": 0}, {"kind": "mse", "temperature": 1}, {"kind": "kd", "weight": 0}]
)
def test_what_a_recipe_may_not_write(data: dict[str, object]) -> None:
    adapter: TypeAdapter[Loss] = TypeAdapter(Loss)
    with pytest.raises(ValidationError):
        adapter.validate_python(data)
