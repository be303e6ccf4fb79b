"""Regressors: VkD's projection is orthogonal before, while and after it is trained."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attar.stages.distill.feature_loss_settings import Hint, VkD
from attar.stages.distill.regressors import create_orthogonal_projection, create_regressor

widths = st.integers(1, 12)


@settings(deadline=None)
@given(widths, widths, st.integers(0, 2**16))
def test_rows_or_columns_are_orthonormal_at_every_step(student: int, teacher: int, seed: int) -> None:
    """P P^T = I, where z P has at least as many numbers as z; else P^T P = I."""
    torch.manual_seed(seed)
    projection = create_orthogonal_projection(student, teacher)
    optimizer = torch.optim.AdamW(projection.parameters(), lr=0.1, weight_decay=0.05)
    for _ in range(3):
        matrix = projection(torch.eye(student))
        product = matrix @ matrix.T if student <= teacher else matrix.T @ matrix
        assert torch.allclose(product, torch.eye(min(student, teacher)), atol=1e-5)
        projection(torch.randn(4, student)).square().sum().add(projection(torch.ones(1, student)).sum()).backward()
        optimizer.step()


def test_distances_of_samples_stay_what_they_are() -> None:
    torch.manual_seed(0)
    z = torch.randn(6, 5)
    projected = create_orthogonal_projection(5, 9)(z)
    assert torch.allclose(torch.cdist(projected, projected), torch.cdist(z, z), atol=1e-5)


def test_a_step_moves_the_projection() -> None:
    torch.manual_seed(0)
    projection = create_regressor(VkD(student="a", teacher="b"), torch.zeros(2, 3), torch.zeros(2, 4))
    before, z, target = projection(torch.eye(3)).detach(), torch.randn(8, 3), torch.randn(8, 4)
    optimizer = torch.optim.SGD(projection.parameters(), lr=0.1)
    (projection(z) - target).square().mean().backward()
    optimizer.step()
    assert not torch.allclose(projection(torch.eye(3)), before, atol=1e-4)


@pytest.mark.parametrize(("loss", "named"), [(VkD(student="a", teacher="b"), None), (Hint(student="a", teacher="b"), "bias")])
def test_a_projection_has_no_bias_and_a_hint_has_one(loss: VkD | Hint, named: str | None) -> None:
    regressor = create_regressor(loss, torch.zeros(2, 3), torch.zeros(2, 4))
    assert isinstance(regressor, nn.Linear)
    assert (regressor.bias is None) == (named is None)
