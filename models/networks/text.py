"""Small networks that read tokens, a transformer and a convolutional one, with one output for each
text. Token 0 is padding and is not read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.models.networks.attention import MASKED, attend


class Attention(nn.Module):
    """Every token attends to every other one (Vaswani et al. 2017, arXiv:1706.03762, section
    3.2)."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width, inner = heads, head_width, heads * head_width
        self.inside, self.outside = nn.Linear(width, 3 * inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, unseen: Tensor) -> Tensor:
        shape = (x.shape[0], x.shape[1], self.heads, self.head_width)
        parts = self.inside(x).chunk(3, 2)  # (B, S, heads * head_width) each
        query, key, value = (
            part.reshape(shape).transpose(1, 2) for part in parts
        )  # (B, heads, S, head_width)
        seen = attend(query, key, value, unseen).transpose(1, 2)  # (B, S, heads, head_width)
        return self.outside(seen.flatten(2))  # type: ignore[no-any-return]  # (B, S, width); nn.Module calls are untyped


class Transformer(nn.Module):
    """Attention, then two linear layers, each with a residual connection and normalised first
    (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(
        self, width: int, heads: int, head_width: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_width)
        self.dropout = nn.Dropout(dropout)
        self.mixing = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        unseen = (1 - mask)[:, None, None, :, 0] * MASKED  # (B, S, 1) -> (B, 1, 1, S)
        x = x + self.dropout(self.attention(self.first(x), unseen))
        return x + self.dropout(self.mixing(self.second(x)))  # type: ignore[no-any-return]  # (B, S, width); as above


class Convolution(nn.Module):
    """A convolution over neighbouring tokens with a residual connection. Padding is 0 before it, as
    beyond the ends, and has no effect."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.near = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.first, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        near = self.near((self.first(x) * mask).transpose(1, 2)).transpose(1, 2)  # (B, S, width)
        return x + self.dropout(F.relu(near))  # type: ignore[no-any-return]  # as above


class Reader(nn.Module):
    """Embeddings, blocks, the mean and the maximum over the tokens without padding, one linear
    layer."""

    def __init__(
        self,
        blocks: list[nn.Module],
        vocabulary: int,
        width: int,
        length: int,
        classes: int,
        dropout: float,
    ) -> None:
        """``length`` is the number of positions with an embedding; 0 if the blocks are sensitive to
        order themselves."""
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = nn.Parameter(0.1 * torch.randn(length, width)) if length else None
        self.blocks, self.dropout = nn.ModuleList(blocks), nn.Dropout(dropout)
        self.last, self.head = nn.LayerNorm(width), nn.Linear(2 * width, classes)

    def forward(self, text: Tensor) -> Tensor:
        mask = (text != 0).float()[:, :, None]  # (B, S, 1)
        x = self.tokens(text)  # (B, S, width)
        if self.places is not None:
            x = x + self.places[: text.shape[1]]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, mask)
        x = self.last(x)
        mean = (x * mask).sum(1) / mask.sum(1).clamp(min=1)  # (B, width)
        largest = (x + (1 - mask) * MASKED).amax(1) * mask.amax(
            1
        )  # (B, width); 0 where all is padding
        return self.head(self.dropout(torch.cat([mean, largest], 1)))  # type: ignore[no-any-return]  # (B, classes); as above


def transformer(
    width: int = 160, layers: int = 2, heads: int = 4, dropout: float = 0.1,
    vocabulary: int = 8192, length: int = 48, classes: int = 35,
    head_width: int = 0, hidden: int = 0,
) -> Reader:  # fmt: skip
    """1.7 million parameters, of which 1.3 million are embeddings, which cost next to no time.

    ``head_width`` is by default ``width / heads``, ``hidden`` (of the linear layers) twice the
    width. With both given, a student may have fewer heads and hidden units than its teacher.
    """
    sizes = (width, heads, head_width or width // heads, hidden or 2 * width, dropout)
    return Reader(
        [Transformer(*sizes) for _ in range(layers)],
        vocabulary,
        width,
        length,
        classes,
        dropout,
    )


def convolution(
    width: int = 160,
    layers: int = 2,
    kernel: int = 3,
    dropout: float = 0.1,
    vocabulary: int = 8192,
    classes: int = 35,
) -> Reader:
    """The same without attention: it reads words and groups of up to ``layers * (kernel - 1) + 1``
    of them."""
    return Reader(
        [Convolution(width, kernel, dropout) for _ in range(layers)],
        vocabulary,
        width,
        0,
        classes,
        dropout,
    )
