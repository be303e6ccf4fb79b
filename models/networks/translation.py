"""Encoder-decoder transformers (Vaswani et al. 2017, arXiv:1706.03762), with the norms first.

One network in three forms. ``forward`` reads a source and a whole prefix, for training. ``start``
and ``step`` do the same arithmetic one token at a time, for generation; see ``models.generation``.
Norms stand before each part (Xiong et al. 2020, arXiv:2002.04745), and one table embeds the source,
the target and the outputs (Press and Wolf 2017, arXiv:1608.05859).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.models.networks.attention import MASKED, attend

Cache = tuple[Tensor, Tensor]
"""Keys and values, ``(B, heads, S, width / heads)``."""


class Attention(nn.Module):
    """Attention of queries to keys and values, over several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def split_heads(self, x: Tensor) -> Tensor:
        """``(B, S, width) -> (B, heads, S, width / heads)``"""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def make_cache(self, x: Tensor) -> Cache:
        """Return keys and values of ``x`` ``(B, S, width)``."""
        return self.split_heads(self.key(x)), self.split_heads(self.value(x))

    def forward(self, x: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """``x`` ``(B, T, width)`` attends to ``cache``.

        ``mask`` ``(B or 1, 1, T or 1, S)`` is added to the scores.
        """
        mixed = attend(self.split_heads(self.query(x)), *cache, mask)  # (B, heads, T, d)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # nn.Module calls are untyped


class FeedForward(nn.Sequential):
    """Two linear layers with a ReLU between them."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.feed = Attention(width, heads), FeedForward(width, hidden, dropout)
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, self.attention.make_cache(normed), mask))
        return x + self.dropout(self.feed(self.feed_norm(x)))  # type: ignore[no-any-return]  # as above


class DecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.feed = FeedForward(width, hidden, dropout)
        self.own_norm, self.cross_norm, self.feed_norm = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, past: Cache | None, own_mask: Tensor, memory: Cache, memory_mask: Tensor
    ) -> tuple[Tensor, Cache]:
        """``x`` ``(B, T, width)`` goes on from ``past``.

        Returns the same shape, and the new cache.
        """
        normed = self.own_norm(x)
        cache = self.own.make_cache(normed)
        if past is not None:
            cache = (torch.cat([past[0], cache[0]], 2), torch.cat([past[1], cache[1]], 2))
        x = x + self.dropout(self.own(normed, cache, own_mask))
        x = x + self.dropout(self.cross(self.cross_norm(x), memory, memory_mask))
        return x + self.dropout(self.feed(self.feed_norm(x))), cache


def initialize_linear(module: nn.Module) -> None:
    """Draw the weights of a linear layer by Glorot and Bengio 2010, eq. 16; biases begin at 0.

    With the smaller ones that PyTorch draws, the first tokens predicted are those that are read.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class Translator(nn.Module):
    """An encoder and a decoder of their own depths, and one table of embeddings."""

    positions: Tensor

    def __init__(
        self,
        size: int,
        width: int,
        heads: int,
        hidden: int,
        encoder: int,
        decoder: int,
        longest: int,
        pad: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.pad, self.width, self.heads = pad, width, heads
        self.embedding = nn.Embedding(size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.register_buffer("positions", encode_positions(longest, width), persistent=False)
        layer = (width, heads, hidden, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(encoder))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(decoder))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.apply(initialize_linear)

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        """Return logits ``(B, T, size)`` of the token after each of the prefix ``(B, T)``.

        ``source`` is ``(B, S)``.
        """
        memory_mask, *flat = self.encode(source)
        length = prefix.shape[1]
        causal = torch.full((length, length), MASKED, device=prefix.device).triu(1)[None, None]
        x = self.embed(prefix) + self.positions[:length]
        x = self.dropout(x)
        for layer, memory in zip(self.decoder, pair_caches(flat), strict=True):
            x, _ = layer(x, None, causal, memory, memory_mask)
        return self.project(x)

    def start(self, source: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the memory (a mask and each layer's keys and values) and an empty cache."""
        memory = self.encode(source)
        empty = source.new_zeros(
            (source.shape[0], self.heads, 0, self.width // self.heads), dtype=memory[0].dtype
        )
        return memory, (empty,) * (2 * len(self.decoder))

    def step(
        self, token: Tensor, place: Tensor, memory: tuple[Tensor, ...], state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read ``token`` ``(B)`` at ``place`` ``(1)``.

        Return logits ``(B, size)`` and the new state.
        """
        memory_mask, *flat = memory
        x = self.embed(token[:, None]) + self.positions[place]  # (B, 1, width)
        nothing_masked = x.new_zeros(1, 1, 1, 1)
        caches: list[Tensor] = []
        for layer, past, own in zip(
            self.decoder, pair_caches(list(state)), pair_caches(flat), strict=True
        ):
            x, cache = layer(x, past, nothing_masked, own, memory_mask)
            caches += cache
        return self.project(x)[:, 0], tuple(caches)

    def encode(self, source: Tensor) -> tuple[Tensor, ...]:
        """Return the source's mask ``(B, 1, 1, S)``, then keys and values of each decoder layer."""
        mask = (source == self.pad)[:, None, None, :] * MASKED
        x = self.dropout(self.embed(source) + self.positions[: source.shape[1]])
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.encoder_norm(x)
        caches: list[Tensor] = []
        for layer in self.decoder:
            caches += layer.cross.make_cache(x)  # type: ignore[union-attr,operator]  # ModuleList hides the layer's class
        return mask, *caches

    def embed(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(tokens) * math.sqrt(self.width)
        return embedded

    def project(self, x: Tensor) -> Tensor:
        """``(B, T, width) -> (B, T, size)``, by the table of the embeddings."""
        return functional.linear(self.decoder_norm(x), self.embedding.weight)


def encode_positions(longest: int, width: int) -> Tensor:
    """Return sines and cosines of each place, ``(longest, width)``: Vaswani et al., section 3.5."""
    places = torch.arange(longest, dtype=torch.float32)[:, None]
    rates = torch.exp(
        torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width)
    )
    return torch.stack([torch.sin(places * rates), torch.cos(places * rates)], 2).flatten(1)[
        :, :width
    ]


def pair_caches(tensors: list[Tensor]) -> list[Cache]:
    """Return (keys, values) of each layer, from a flat list."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def translator(
    size: int,
    width: int = 256,
    heads: int = 4,
    hidden: int = 1024,
    encoder: int = 6,
    decoder: int = 2,
    longest: int = 128,
    pad: int = 0,
    dropout: float = 0.1,
) -> Translator:
    """A network from tokens ``(B, S)`` and a prefix ``(B, T)`` to logits ``(B, T, size)``.

    ``size``: tokens of the shared vocabulary. ``encoder`` and ``decoder``: their numbers of layers.
    ``longest``: the largest number of tokens of a source or a target.
    """
    return Translator(size, width, heads, hidden, encoder, decoder, longest, pad, dropout)
