"""A word-level tokenizer of six words, made with the library."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

WORDS = ("sun", "moon", "stone", "river", "wind")
PAD = 9


def tokenizer(*, frame: bool = True, pad: str = "[PAD]") -> Tokenizer:
    """[CLS] is 1, [SEP] 2, an unknown word 3, the words 4 to 8, and padding 9. ``frame``: [CLS] before and [SEP] behind."""
    vocabulary = {"unused": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, **{word: 4 + i for i, word in enumerate(WORDS)}, pad: PAD}
    made = Tokenizer(WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = Whitespace()
    if frame:
        made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return made


def saved(file: Path, *, frame: bool = True, pad: str = "[PAD]") -> Path:
    tokenizer(frame=frame, pad=pad).save(str(file))
    return file
