"""Hugging Face encoder-decoders, such as Marian and T5, as networks that generate tokens.

One model in the three forms of ``models.generation``: ``forward`` reads a whole prefix, ``start``
and ``step`` read one token at a time. A model of transformers keeps an object as its cache; here it
is a plain tuple of tensors, keys and values of each layer.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from attar.models.generation import Vocabulary
from attar.models.networks.huggingface import Pretrained, import_transformers
from attar.pipeline.core.errors import StageError

Tensors = tuple[Tensor, ...]


def generator(config: str, begin: int | None = None) -> Generator:
    """Return a network from tokens ``(B, S)`` and a prefix ``(B, T)`` to logits ``(B, T, size)``.

    ``begin``: the token that the task begins with, where it is not the model's own
    (``decoder_start_token_id``). Marian and T5 begin with their padding, and a task cannot; name a
    token that no sequence has. Raises StageError if transformers has no such model for the
    configuration, and if this has no end token or no token to begin with.
    """
    return Generator(config, begin)


class Generator(Pretrained):
    """An encoder-decoder of transformers with its own vocabulary."""

    auto = "AutoModelForSeq2SeqLM"

    def __init__(self, config: str, begin: int | None) -> None:
        super().__init__(config)
        settings = self.model.config
        self.first, self.end = settings.decoder_start_token_id, settings.eos_token_id
        if not isinstance(self.first, int) or not isinstance(self.end, int):
            raise StageError(
                f"this {settings.model_type} has decoder_start_token_id = {self.first} and "
                f"eos_token_id = {self.end}; a network that generates needs one token for each: "
                "set them in its config.json"
            )
        self.begin = self.first if begin is None else begin
        parameters = inspect.signature(self.model.get_decoder().forward).parameters
        # Releases of transformers give the argument one of two names.
        self.cache_name = "cache" if "cache" in parameters else "past_key_values"

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that it gives logits of, and the special ones."""
        size = self.model.get_output_embeddings().weight.shape[0]
        return Vocabulary(size, self.begin, self.end, self.pad)

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        """Return logits ``(B, T, size)`` of the token after each of the prefix ``(B, T)``."""
        outputs = self.model(
            input_ids=source,
            attention_mask=self.mask(source),
            decoder_input_ids=self.replace_begin(prefix),
            use_cache=False,
        )
        return self.suppress_unspoken(outputs.logits)

    def start(self, source: Tensor) -> tuple[Tensors, Tensors]:
        """Return the memory (a mask, and each layer's keys and values) and an empty cache."""
        mask = self.mask(source)
        states = self.model.get_encoder()(input_ids=source, attention_mask=mask).last_hidden_state
        first = torch.full_like(source[:, :1], self.first)
        cache = self.decode(first, mask, states, make_cache((), ()))[1]
        memory = read_cache(cache.cross_attention_cache)
        empty = tuple(tensor[:, :, :0] for tensor in read_cache(cache.self_attention_cache))
        return (mask, *memory), empty

    def step(
        self, token: Tensor, place: Tensor, memory: Tensors, state: Tensors
    ) -> tuple[Tensor, Tensors]:
        """Read ``token`` ``(B)``. Return logits ``(B, size)`` and the new state.

        The state tells the place.
        """
        mask, *caches = memory
        # Keys and values are in the cache, so that of the encoder's states the length alone counts.
        states = mask[:, :, None].to(caches[0].dtype)
        cache = make_cache(state, tuple(caches))
        logits, cache = self.decode(self.replace_begin(token[:, None]), mask, states, cache)
        return logits[:, 0], read_cache(cache.self_attention_cache)

    def decode(
        self, tokens: Tensor, mask: Tensor, states: Tensor, cache: Any
    ) -> tuple[Tensor, Any]:
        """Return the logits of some more tokens ``(B, T)``, and the cache with them."""
        outputs = self.model(
            encoder_outputs=(states,),
            attention_mask=mask,
            decoder_input_ids=tokens,
            use_cache=True,
            **{self.cache_name: cache},
        )
        return self.suppress_unspoken(outputs.logits), cache

    def replace_begin(self, tokens: Tensor) -> Tensor:
        """Return the tokens with the model's own first one where the task has its begin token."""
        return tokens.masked_fill(tokens == self.begin, self.first)

    def suppress_unspoken(self, logits: Tensor) -> Tensor:
        """Make padding and the begin token as unlikely as the least likely token.

        ``generate`` of transformers forbids a Marian its padding, too (``bad_words_ids``).
        """
        tokens = torch.arange(logits.shape[-1], device=logits.device)
        is_unspoken = (tokens == self.pad) | (tokens == self.begin)
        return torch.where(is_unspoken, logits.amin(-1, keepdim=True), logits)


def make_cache(own: Tensors, memory: Tensors) -> Any:
    """Return transformers' cache of the decoder's own keys and values, and of the encoder's."""
    library = import_transformers()
    caches = []
    for tensors in (own, memory):
        cache = library.DynamicCache()
        for layer, (keys, values) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
            cache.update(keys, values, layer)
        caches.append(cache)
    return library.EncoderDecoderCache(*caches)


def read_cache(cache: Any) -> Tensors:
    """Return keys and values of each layer, ``(B, heads, S, width / heads)``, as a flat tuple."""
    return tuple(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
