"""The first chunk of a split: which sample cannot be prepared."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from attar.models.checks.task import check_task
from attar.models.preprocess import ChannelsFirst, DecodeImage, Scale, Step, Tokenize
from attar.models.splits.files import FileSplit
from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor, hits
from attar.pipeline.core.errors import StageError
from tests.support.tasks import words

SAMPLES = {"train": range(8), "validation": range(8, 12), "test": range(12, 16)}


class Pictures(Task):
    """Is a picture bright?"""

    inputs = {"image": Tensor("float32", ("batch", 3, 4, 4))}
    outputs = {"logits": Output(("batch", 2), target="label")}
    ranges = {"batch": (1, 8)}
    classes = ("dark", "bright")
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {"image": [DecodeImage(), ChannelsFirst(), Scale(by=1 / 255)]}
    root: ClassVar[Path]

    def data(self) -> list[str | Path]:
        return ["drawn"]

    def split(self, name: SplitName) -> Split:
        files = [f"{self.classes[i % 2]}/{i}.png" for i in SAMPLES[name]]
        return FileSplit(self.root, self.classes, files)

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])


def draw_picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    for number in range(16):
        file = tmp_path / ("dark", "bright")[number % 2] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(draw_picture(number))

    class FoundPictures(Pictures):
        root = tmp_path

    return FoundPictures()


def test_a_damaged_sample_is_named_by_its_file(pictures: Pictures) -> None:
    check_task(pictures)
    damaged = pictures.root / "bright" / "5.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(StageError, match=r"^sample 5 of FoundPictures\.split\('train'\) \(bright/5\.png\): "):
        check_task(pictures)


def test_a_text_behind_the_first_chunk_is_named_too(tmp_path: Path) -> None:
    text = Tokenize(file=words.saved(tmp_path / "tokenizer.json"), length=4, whole=True)

    class LongTexts(Pictures):
        inputs = {"text": Tensor("int64", ("batch", "tokens"), high=10, pad=words.PAD)}
        ranges = {"batch": (1, 8), "tokens": (1, 4)}
        preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {"text": [text]}

        def data(self) -> list[str | Path]:
            return [tmp_path / "tokenizer.json"]

        def split(self, name: SplitName) -> Split:
            texts = np.array(["sun moon"] * 600, object)
            texts[590] = "sun moon stone river"
            return InMemory({"text": texts}, {"label": np.arange(600) % 2})

    with pytest.raises(StageError, match=r"^sample 590 of LongTexts\.split\('train'\): "):
        check_task(LongTexts())
