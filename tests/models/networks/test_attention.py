"""Attention: its numbers by hand, and those of the kernel that a GPU runs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from attar.models.networks.attention import MASKED, attend

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def draw_parts(heads: int, queries: int, keys: int, width: int, seed: int) -> Parts:
    """Return queries, keys, values and a mask for two samples, of which the second has one key alone."""
    random = torch.Generator().manual_seed(seed)
    sizes = (queries, keys, keys)
    drawn = [torch.randn(2, heads, size, width, generator=random) for size in sizes]
    mask = torch.zeros(2, 1, 1, keys)
    mask[1, ..., 1:] = MASKED
    return drawn[0], drawn[1], drawn[2], mask


def test_by_hand() -> None:
    """The scores are 2 * ln 3 / sqrt(4) = ln 3 and 0, so the values weigh 3/4 and 1/4."""
    queries = torch.tensor([2 * math.log(3), 0, 0, 0]).reshape(1, 1, 1, 4)
    keys = torch.eye(4)[:2].reshape(1, 1, 2, 4)
    values = torch.tensor([[8.0, 0], [0, 4]]).reshape(1, 1, 2, 2)
    assert attend(queries, keys, values, torch.zeros(1, 1, 1, 2)).flatten().tolist() == pytest.approx([6, 1])


def test_a_masked_key_is_not_read_unless_all_are() -> None:
    queries, keys, values, mask = draw_parts(2, 3, 4, 8, 0)
    assert torch.equal(attend(queries, keys, values, mask)[1], values[1, :, :1].expand(-1, 3, -1))
    everywhere = attend(queries, keys, values, torch.full((1, 1, 1, 4), MASKED))
    assert torch.allclose(everywhere, attend(queries, keys, values, torch.zeros(1, 1, 1, 4)), atol=1e-3)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_products_are_the_kernel(heads: int, queries: int, keys: int, width: int, seed: int) -> None:
    parts = draw_parts(heads, queries, keys, width, seed)
    assert torch.allclose(attend(*parts), functional.scaled_dot_product_attention(*parts), atol=1e-5)


@pytest.mark.gpu
def test_the_kernel_of_a_gpu() -> None:
    parts = draw_parts(2, 3, 4, 8, 0)
    queries, keys, values, mask = (part.cuda() for part in parts)
    on_gpu = attend(queries, keys, values, mask)
    assert torch.allclose(on_gpu.cpu(), attend(*parts), atol=1e-3)
