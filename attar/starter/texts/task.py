"""Texts and their classes, from a table or from folders that are named as the classes. `attar new
--from texts` filled in the constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

import attar
from attar.models.task import Arrays, SplitName

DATA = Path("texts")  # a table, or a folder: CLASS/FILE
TEXT = ""  # columns of a table
LABEL = ""
CLASSES = ("first", "second")
LENGTH = 128  # tokens that are read of a text; also the networks'
VOCABULARY = 1000  # tokens that there are
HERE = Path(__file__).parent
SPLITS = HERE / "splits.csv"  # the split of each text, by its file, or its row counted from 0
TOKENIZER = HERE / "tokenizer.json"  # made of the texts that are trained on


class Texts(attar.Task):
    inputs = {"text": attar.Tensor("int64", ("batch", "sequence"), high=VOCABULARY, pad=0)}
    outputs = {"logits": attar.Output(("batch", len(CLASSES)), target="label")}
    ranges = {"batch": (1, 64), "sequence": (1, LENGTH)}
    classes = CLASSES
    preprocess = {"text": [attar.Tokenize(file=TOKENIZER, length=LENGTH)]}

    def data(self) -> list[Path | str]:
        return [SPLITS, TOKENIZER, DATA]

    def split(self, name: SplitName) -> attar.Split:
        listed = attar.read_split_list(SPLITS, name)
        if not TEXT:
            return attar.FileSplit(DATA, CLASSES, listed, input_name="text", is_text=True)
        table = attar.TableSplit(DATA, {"text": TEXT}, {"label": LABEL}, CLASSES)
        return attar.Subset(table, np.array(listed, np.int64))

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        """Accuracy."""
        return attar.hits(outputs["logits"], targets["label"])
