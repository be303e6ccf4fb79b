"""Tiny random encoder-decoders of transformers, for the task ``sequences.Reversal``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from attar.models.networks import huggingface
from attar.models.networks.generator import Generator, generator
from tests.support.tasks.sequences import SIZE

KINDS = ("marian", "t5")
SPECIAL = {"vocab_size": SIZE, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
MARIAN: dict[str, Any] = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 2, "init_std": 1.0}
MARIAN |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 12}
MARIAN |= {"decoder_ffn_dim": 12, "max_position_embeddings": 16}
T5: dict[str, Any] = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 2}
T5 |= {"relative_attention_num_buckets": 8, "initializer_factor": 3.0}


def make_configuration(kind: str, **changed: Any) -> Any:
    """Return a configuration that begins with its padding, as those of Marian and T5 do."""
    if kind == "marian":
        return transformers.MarianConfig(**{**MARIAN, **SPECIAL, **changed})
    return transformers.T5Config(**{**T5, **SPECIAL, **changed})


def make_generator(kind: str) -> Generator:
    torch.manual_seed(0)
    return generator(make_configuration(kind).to_json_string(), begin=1).eval()


def save_folder(kind: str, folder: Path, **changed: Any) -> Any:
    """Write a random model as ``save_pretrained`` does, and return it."""
    torch.manual_seed(0)
    classes = {"marian": transformers.MarianMTModel, "t5": transformers.T5ForConditionalGeneration}
    model = classes[kind](make_configuration(kind, **changed)).eval()
    with huggingface.silence_transformers():
        model.save_pretrained(folder)
    return model
