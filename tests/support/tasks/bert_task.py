"""A task of token sequences and the configuration of a BERT that is small enough to train in a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import transformers

from attar.models.task import Arrays, InMemory, Output, Split, SplitName, Task, Tensor, hits

TASK = "tests.support.tasks.bert_task:RangedSentences"
VOCABULARY_SIZE, LONGEST = 50, 16


class RangedSentences(Task):
    """Which of three ranges holds the first token? Padded with 0 to the longest."""

    inputs = {"tokens": Tensor("int64", ("batch", "sequence"), high=VOCABULARY_SIZE, pad=0)}
    outputs = {"logits": Output(("batch", 3), target="label")}
    ranges = {"batch": (1, 8), "sequence": (1, LONGEST)}
    classes: ClassVar[Sequence[str]] = ("low", "middle", "high")

    def data(self) -> list[Path | str]:
        return ["sentences 1"]

    def split(self, name: SplitName) -> Split:
        generator = np.random.default_rng(len(name))
        tokens = generator.integers(1, VOCABULARY_SIZE, (96, LONGEST))
        lengths = generator.integers(8, LONGEST + 1, 96)
        tokens[np.arange(LONGEST) >= lengths[:, None]] = 0
        return InMemory({"tokens": tokens}, {"label": tokens[:, 0] * 3 // VOCABULARY_SIZE})

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])


def make_bert_config(**changed: Any) -> transformers.BertConfig:
    """Return a configuration with two layers of 32 features."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return transformers.BertConfig(vocab_size=VOCABULARY_SIZE, max_position_embeddings=LONGEST, **{**sizes, **changed})
