"""The rows of a table: columns of numbers, and a class. `attar new --from table` filled in the
constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

import attar
from attar.models.task import Arrays, SplitName

DATA = Path("table.csv")
LABEL = "label"
FEATURES = ("first", "second")
CLASSES = ("no", "yes")
MEANS = (0.0, 0.0)  # of each feature, in the rows that are trained on
DEVIATIONS = (1.0, 1.0)
SPLITS = Path(__file__).parent / "splits.csv"  # the split of each row, counted from 0


class Rows(attar.Task):
    inputs = {"features": attar.Tensor("float32", ("batch", len(FEATURES)))}
    outputs = {"logits": attar.Output(("batch", len(CLASSES)), target="label")}
    classes = CLASSES
    preprocess = {"features": [attar.Normalize(mean=MEANS, std=DEVIATIONS)]}

    def data(self) -> list[Path | str]:
        return [SPLITS, DATA]

    def split(self, name: SplitName) -> attar.Split:
        table = attar.TableSplit(DATA, {"features": FEATURES}, {"label": LABEL}, CLASSES)
        return attar.Subset(table, np.array(attar.read_split_list(SPLITS, name), np.int64))

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        """Accuracy."""
        return attar.hits(outputs["logits"], targets["label"])
