"""CIFAR-100 (Krizhevsky 2009): 60,000 colour images of 32x32, a hundred classes, from the usual folder ``cifar-100-python``."""

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
from attar.models.tasks import pickled
from attar.models.tasks.folders import Home
from attar.models.tasks.images import flip, shift
from attar.pipeline.core.errors import StageError

FOLDER = "cifar-100-python"
FILES = {  # MD5, which is what the authors publish
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
ARCHIVE_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
HELD_OUT = 5000  # of the 50,000 training images, for validation
PIXELS = 3 * 32 * 32
CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)


class Cifar100(Task):
    """The 10,000 images of the test file; 5,000 of the training file for validation, the others to train on.

    Training images that are in the test file too, byte for byte, are left out: Barz and Denzler 2020, arXiv:1902.00423, list
    duplicates, of which it is not known here how many are that. The literature trains on all 50,000 and chooses on test; here
    nothing is chosen on test.
    """

    inputs = {"image": Tensor("float32", ("batch", 3, 32, 32))}
    outputs = {"logits": Output(("batch", 100), target="label")}
    classes = tuple(CLASSES.split())
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {
        "image": [Scale(by=1 / 255), Normalize(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))]
    }

    def data(self) -> list[Path | str]:
        folder = HOME.find()
        return [folder / name for name in FILES]

    def split(self, name: SplitName) -> Split:
        folder = HOME.find()
        check_names(folder / "meta", self.classes)
        if name == "test":
            return InMemory(*table(folder / "test"))
        images, labels = table(folder / "train")
        tested = {image.tobytes() for image in table(folder / "test")[0]["image"]}
        new = np.array([image.tobytes() not in tested for image in images["image"]])
        order = np.random.default_rng(0).permutation(np.flatnonzero(new))
        rows = {"train": order[HELD_OUT:], "validation": order[:HELD_OUT]}[name]
        return InMemory({"image": images["image"][rows]}, {"label": labels["label"][rows]})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Half of the images mirrored, all moved by up to four pixels: the crop and flip of He et al. 2016."""
        return {"image": shift(flip(inputs["image"], generator), generator, 4)}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])

    def fetch(self) -> None:
        if HOME.complete() is None:
            fetch(HOME.places()[-1])
        for name, expected in FILES.items():
            verify(HOME.find() / name, expected)


HOME = Home(
    FOLDER,
    lambda folder: all((folder / name).is_file() for name in FILES),
    f"CIFAR-100 is not here; looked for {', '.join(FILES)} in {{looked}}. Run `attar fetch RECIPE`, or get {FOLDER}.tar.gz "
    f"from {PAGE} (MD5 {ARCHIVE_MD5}), unpack it to data/, or anywhere and set ATTAR_DATA to its folder {FOLDER}",
)


def table(path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Images ``(N, 3, 32, 32)`` uint8 and labels ``(N,)`` int64 of a file. Raises StageError for one of another format."""
    images, labels = remembered(path, path.stat().st_size, path.stat().st_mtime_ns)
    return {"image": images}, {"label": labels}


@lru_cache(maxsize=2)
def remembered(path: Path, size: int, mtime: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The arrays of a file as it was at this size and mtime: a stage asks for its splits several times."""
    content = pickled.read(path)
    data, labels = content.get("data"), content.get("fine_labels")
    if not (isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == PIXELS):
        raise StageError(f"{path} holds no 'data' of (N, {PIXELS}) bytes, so it is no file of CIFAR-100; {keys(content)}")
    if not (isinstance(labels, list) and len(labels) == len(data) and all(type(label) is int for label in labels)):
        raise StageError(f"{path} holds no 'fine_labels', one a row of its {len(data)} images; {keys(content)}")
    made = np.array(labels, np.int64)
    made.flags.writeable = False
    return data.reshape(-1, 3, 32, 32), made


def keys(content: Mapping[str, object]) -> str:
    return f"it has {', '.join(content) or 'nothing'}"


def check_names(path: Path, expected: Sequence[str]) -> None:
    """The hundred names are written here too, because a bundle is described without the data."""
    names = pickled.read(path).get("fine_label_names")
    if names != list(expected):
        raise StageError(f"{path} does not name the hundred classes of CIFAR-100; unpack {FOLDER}.tar.gz from {PAGE} again")


def fetch(folder: Path) -> None:
    """The three files into ``folder``, from the authors."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        archive = Path(temporary) / f"{FOLDER}.tar.gz"
        try:
            urllib.request.urlretrieve(ARCHIVE, archive)  # a constant address, and verified by its hash
        except OSError as error:
            raise StageError(f"cannot download {ARCHIVE}: {error}; get it yourself, unpack it and set ATTAR_DATA") from error
        verify(archive, ARCHIVE_MD5)
        with tarfile.open(archive) as packed:
            for name in FILES:
                file = cast(IO[bytes], packed.extractfile(f"{FOLDER}/{name}"))  # its hash says that it holds them
                (Path(temporary) / name).write_bytes(file.read())
        for name in FILES:
            (Path(temporary) / name).replace(folder / name)


def verify(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != expected:
        raise StageError(f"{path} has MD5 {got}, expected {expected}; delete it and fetch again")
