"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1), which the networks
that are written here share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

MASKED = -1e4
"""Added to the score of a position that is not read: its attention is then 0. It is finite in half
precision, and the attention remains a number if no position is read."""


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return ``softmax(queries @ keys^T / sqrt(d) + mask) @ values``, ``(B, heads, T, d)``.

    ``queries`` are ``(B, heads, T, d)``, ``keys`` and ``values`` ``(B, heads, S, d)``; ``mask``
    broadcasts to ``(B, heads, T, S)``. On a GPU it is one kernel. On a CPU, where networks are
    exported, it is products and a softmax, which runtimes fuse and quantize.
    """
    if queries.is_cuda:
        return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    scores = queries * queries.shape[3] ** -0.5 @ keys.transpose(2, 3) + mask
    return functional.softmax(scores, -1) @ values
