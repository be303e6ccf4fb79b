"""Pictures in folders that are named as their classes. `attar new --from images` filled in the
constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

import attar
from attar.models.task import Arrays, SplitName

DATA = Path("pictures")  # where the pictures are: CLASS/FILE
CLASSES = ("first", "second")
SIDE = 32  # of the square, in pixels, that pictures are brought to
SPLITS = Path(__file__).parent / "splits.csv"  # the split of each picture; correct it by hand


class Pictures(attar.Task):
    inputs = {"image": attar.Tensor("float32", ("batch", 3, SIDE, SIDE))}
    outputs = {"logits": attar.Output(("batch", len(CLASSES)), target="label")}
    classes = CLASSES
    preprocess = {
        "image": [
            attar.DecodeImage(),
            attar.Resize(shorter=SIDE),
            attar.CenterCrop(height=SIDE, width=SIDE),
            attar.ChannelsFirst(),
            attar.Scale(by=1 / 255),
            attar.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    }

    def data(self) -> list[Path | str]:
        return [SPLITS, DATA]

    def split(self, name: SplitName) -> attar.Split:
        return attar.FileSplit(DATA, CLASSES, attar.read_split_list(SPLITS, name))

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        """Accuracy."""
        return attar.hits(outputs["logits"], targets["label"])
