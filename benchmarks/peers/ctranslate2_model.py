"""The weights of ``models.networks.translation`` as a CTranslate2 model, for a fair comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ctranslate2.specs import common_spec, transformer_spec
from torch import Tensor, nn

from attar.models.generation import Vocabulary
from attar.models.networks.translation import Attention, Translator

Floats = npt.NDArray[np.float32]


def name_tokens(words: Vocabulary) -> list[str]:
    """Return a string for every token; CTranslate2 reads and writes strings."""
    return [f"t{token}" for token in range(words.size)]


def write_model(network: Translator, words: Vocabulary, folder: Path) -> None:
    """Write the network in float; CTranslate2 quantizes when it loads."""
    spec = transformer_spec.TransformerSpec.from_config(
        (len(network.encoder), len(network.decoder)),
        network.heads,
        pre_norm=True,
        activation=common_spec.Activation.RELU,
    )
    for side in (spec.encoder, spec.decoder):
        embeddings = side.embeddings[0] if isinstance(side.embeddings, list) else side.embeddings
        embeddings.weight = to_array(network.embedding.weight)
        embeddings.multiply_by_sqrt_depth = True
        side.position_encodings.encodings = to_array(network.positions)
    copy_norm(spec.encoder.layer_norm, network.encoder_norm)
    copy_norm(spec.decoder.layer_norm, network.decoder_norm)
    spec.decoder.projection.weight = to_array(network.embedding.weight)
    spec.decoder.projection.bias = np.zeros(words.size, np.float32)
    encoder: Any = network.encoder  # nn.ModuleList hides the class of its layers
    decoder: Any = network.decoder
    for copy, layer in zip(spec.encoder.layer, encoder, strict=True):
        copy_self_attention(copy.self_attention, layer.attention, layer.attention_norm)
        copy_feed(copy.ffn, layer.feed, layer.feed_norm)
    for copy, layer in zip(spec.decoder.layer, decoder, strict=True):
        copy_self_attention(copy.self_attention, layer.own, layer.own_norm)
        copy_cross_attention(copy.attention, layer.cross, layer.cross_norm)
        copy_feed(copy.ffn, layer.feed, layer.feed_norm)
    save_model(spec, name_tokens(words), words, folder)


def save_model(spec: Any, tokens: list[str], words: Vocabulary, folder: Path) -> None:
    spec.config.unk_token = tokens[words.pad]
    spec.config.bos_token = spec.config.decoder_start_token = tokens[words.begin]
    spec.config.eos_token = tokens[words.end]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    spec.optimize()
    folder.mkdir(parents=True)
    spec.save(str(folder))


def to_array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().numpy().astype(np.float32)
    return array


def copy_linear(spec: Any, *layers: nn.Linear) -> None:
    """Copy linear layers that read the same, one after the other."""
    spec.weight = np.concatenate([to_array(layer.weight) for layer in layers])
    spec.bias = np.concatenate([to_array(layer.bias) for layer in layers])


def copy_norm(spec: Any, layer: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = to_array(layer.weight), to_array(layer.bias)


def copy_self_attention(spec: Any, attention: Attention, norm: nn.LayerNorm) -> None:
    copy_norm(spec.layer_norm, norm)
    copy_linear(spec.linear[0], attention.query, attention.key, attention.value)
    copy_linear(spec.linear[1], attention.output)


def copy_cross_attention(spec: Any, attention: Attention, norm: nn.LayerNorm) -> None:
    copy_norm(spec.layer_norm, norm)
    copy_linear(spec.linear[0], attention.query)
    copy_linear(spec.linear[1], attention.key, attention.value)
    copy_linear(spec.linear[2], attention.output)


def copy_feed(spec: Any, feed: nn.Sequential, norm: nn.LayerNorm) -> None:
    copy_norm(spec.layer_norm, norm)
    first, last = feed[0], feed[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    copy_linear(spec.linear_0, first)
    copy_linear(spec.linear_1, last)
