"""Hugging Face encoders of BERT's kind with fewer layers, heads or hidden units than their
configuration: students that begin with the weights of their teacher (``inherit = true``).

A configuration has as many heads as its width is cut into. Here heads can be left out while the
others keep their width.
"""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from attar.models.networks import huggingface
from attar.models.tasks import minilm
from attar.pipeline.core.errors import StageError


def classifier(
    config: str, classes: int = 0, layers: int = 0, heads: int = 0, hidden: int = 0
) -> nn.Module:
    """Return ``huggingface.classifier`` with fewer layers, heads in each and hidden units in each
    feed-forward part; 0 leaves what the text of the ``config.json`` says. All weights are random.

    Raises StageError for more heads than there are, and for a model that is not of BERT's kind.
    """
    return narrow(huggingface.classifier(shorten(config, layers, hidden), classes), heads)


def encoder(
    config: str, normalize: bool = True, layers: int = 0, heads: int = 0, hidden: int = 0
) -> nn.Module:
    """Return ``huggingface.encoder`` in the same way."""
    return narrow(huggingface.encoder(shorten(config, layers, hidden), normalize), heads)


def minilm_classifier(
    classes: int = 35, layers: int = 6, heads: int = 12, hidden: int = 1536
) -> nn.Module:
    """Return a network of the form of MiniLM-L6, or smaller, for a teacher of
    ``minilm.classifier``. Unlike that one it begins with random weights."""
    config = (minilm.find_folder() / "config.json").read_text("utf-8")
    return classifier(config, classes, layers, heads, hidden)


def shorten(config: str, layers: int, hidden: int) -> str:
    given = {"num_hidden_layers": layers, "intermediate_size": hidden}
    return json.dumps(json.loads(config) | {name: size for name, size in given.items() if size})


def narrow(network: nn.Module, heads: int) -> nn.Module:
    """Give every attention of the network its first ``heads`` heads; 0 leaves all."""
    attentions = [each for each in network.modules() if is_attention(each)]
    if heads and not attentions:
        raise StageError(
            f"heads = {heads}: {type(network).__name__} has no attention of BERT's form "
            "(self.query, self.key, self.value, output.dense), which BERT and RoBERTa have; leave "
            "heads out"
        )
    for attention in attentions if heads else ():
        narrow_attention(attention, heads)
    return network


def is_attention(module: nn.Module) -> bool:
    """Whether a module is BERT's attention: projections in ``self``, and ``output.dense``."""
    names = dict(module.named_modules())
    return all(name in names for name in ("self.query", "self.key", "self.value", "output.dense"))


def narrow_attention(attention: Any, heads: int) -> None:
    inside, outside = attention.self, attention.output
    most, width = inside.num_attention_heads, inside.attention_head_size
    if not 1 <= heads <= most:
        raise StageError(f"heads = {heads}: the configuration has {most}; write 1 to {most}, or 0")
    size = heads * width
    for name in ("query", "key", "value"):
        setattr(inside, name, nn.Linear(getattr(inside, name).in_features, size))
    inside.num_attention_heads, inside.all_head_size = heads, size
    outside.dense = nn.Linear(size, outside.dense.out_features)
