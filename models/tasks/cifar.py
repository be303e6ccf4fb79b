"""CIFAR-100 (Krizhevsky 2009): 60,000 colour images of 32x32 in a hundred classes.

The binary edition is read, from the folder ``cifar-100-binary``: a sample is one byte of coarse
label, one of fine label, and 3,072 of the image. The python edition is not read, because it is
pickled.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, ClassVar, cast

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Normalize, Scale, Step
from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor, hits
from attar.models.tasks.folders import Home
from attar.models.tasks.images import flip, shift
from attar.pipeline.core.errors import StageError

FOLDER = "cifar-100-binary"
TRAIN, TEST, NAMES = "train.bin", "test.bin", "fine_label_names.txt"
FILES = (TRAIN, TEST, NAMES)
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
ARCHIVE_MD5 = "03b5dce01913d631647c71ecec9e9cb8"
"""As published by the authors."""
HELD_OUT = 5000
"""Number of validation images among the 50,000 training images."""
PIXELS = 3 * 32 * 32
RECORD_BYTES = 2 + PIXELS
CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo "
    "keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse "
    "mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy "
    "porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television "
    "tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)


class Cifar100(Task):
    """10,000 test images; of the 50,000 training images 5,000 for validation, the others to train
    on.

    Training images whose bytes are in the test file are left out: Barz and Denzler 2020,
    arXiv:1902.00423, list duplicates. The literature trains on all 50,000 images and selects on
    test; here nothing is selected on test.
    """

    inputs = {"image": Tensor("float32", ("batch", 3, 32, 32))}
    outputs = {"logits": Output(("batch", 100), target="label")}
    classes = tuple(CLASSES.split())
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {
        "image": [
            Scale(by=1 / 255),
            Normalize(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
        ]
    }

    def data(self) -> list[Path | str]:
        folder = HOME.find()
        return [folder / name for name in FILES]

    def split(self, name: SplitName) -> Split:
        folder = HOME.find()
        check_names(folder / NAMES, self.classes)
        if name == "test":
            return InMemory(*read_samples(folder / TEST))
        images, labels = read_samples(folder / TRAIN)
        tested = {image.tobytes() for image in read_samples(folder / TEST)[0]["image"]}
        new = np.array([image.tobytes() not in tested for image in images["image"]])
        order = np.random.default_rng(0).permutation(np.flatnonzero(new))
        rows = {"train": order[HELD_OUT:], "validation": order[:HELD_OUT]}[name]
        return InMemory({"image": images["image"][rows]}, {"label": labels["label"][rows]})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Mirror half of the images and move all by up to four pixels, as He et al. 2016."""
        return {"image": shift(flip(inputs["image"], generator), generator, 4)}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])

    def fetch(self) -> None:
        if HOME.find_complete() is None:
            download(HOME.places()[-1])


HOME = Home(
    FOLDER,
    lambda folder: all((folder / name).is_file() for name in FILES),
    f"CIFAR-100 is not here; looked for {', '.join(FILES)} in {{looked}}. Run `attar fetch "
    f"RECIPE`, or get {FOLDER}.tar.gz from {PAGE} (MD5 {ARCHIVE_MD5}), unpack it to data/, or "
    f"anywhere and set ATTAR_DATA to its folder {FOLDER}. The python edition, cifar-100-python, "
    "has the same images, but is not read",
)


def read_samples(path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return images ``(N, 3, 32, 32)`` uint8 and labels ``(N,)`` int64. Raises StageError for other
    files."""
    stat = path.stat()
    images, labels = read_records(path, stat.st_size, stat.st_mtime_ns)
    return {"image": images}, {"label": labels}


@lru_cache(maxsize=2)
def read_records(
    path: Path, size: int, mtime: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the arrays of a file. They are cached, since a stage asks for its splits several
    times.

    ``size`` and ``mtime`` are the file's: a changed file is read again.
    """
    if size == 0 or size % RECORD_BYTES:
        raise StageError(
            f"{path} has {size} bytes, no multiple of {RECORD_BYTES}; unpack {FOLDER}.tar.gz again"
        )
    records = np.fromfile(path, np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 1].astype(np.int64)
    images = np.ascontiguousarray(records[:, 2:]).reshape(-1, 3, 32, 32)
    for array in (images, labels):
        array.setflags(write=False)
    return images, labels


def check_names(path: Path, expected: Sequence[str]) -> None:
    """Raises StageError unless the file has the names of the classes.

    The task names them itself, too, because a bundle is described without the data.
    """
    if path.read_text(encoding="utf-8", errors="replace").split() != list(expected):
        raise StageError(
            f"{path} does not name the hundred classes of CIFAR-100; unpack {FOLDER}.tar.gz from "
            f"{PAGE} again"
        )


def download(folder: Path) -> None:
    """Download the files to ``folder`` from the authors, and verify the archive's MD5."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        archive = Path(temporary) / f"{FOLDER}.tar.gz"
        try:
            urllib.request.urlretrieve(
                ARCHIVE, archive
            )  # a constant address, and verified by its hash
        except OSError as error:
            raise StageError(
                f"cannot download {ARCHIVE}: {error}; get it yourself, unpack it and set ATTAR_DATA"
            ) from error
        check_md5(archive, ARCHIVE_MD5)
        with tarfile.open(archive) as packed:
            for name in FILES:
                file = cast(
                    IO[bytes], packed.extractfile(f"{FOLDER}/{name}")
                )  # its hash says that it has them
                (Path(temporary) / name).write_bytes(file.read())
        for name in FILES:
            (Path(temporary) / name).replace(folder / name)


def check_md5(path: Path, expected: str) -> None:
    """Raises StageError for another MD5."""
    with path.open("rb") as file:
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != expected:
        raise StageError(f"{path} has MD5 {got}, expected {expected}; fetch again")
