"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 70,000 grey images of clothes, 28x28, ten
classes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Normalize, Scale, Step
from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor, hits
from attar.models.tasks.folders import Home
from attar.models.tasks.images import erase, flip, shift
from attar.models.tasks.unpacking import read_unpacked
from attar.pipeline.core.errors import StageError

FILES = {  # SHA-256 of the unpacked bytes: every mirror compresses them in its own way
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
OFFICIAL_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
HELD_OUT = 5000  # of the 60,000 training images, for validation
MAGIC = {
    b"\0\0\x08\x01": 1,
    b"\0\0\x08\x03": 3,
}  # IDX files of unsigned bytes, and their number of axes


class FashionMnist(Task):
    """55,000 images for training and 5,000 for validation from the training file, and the 10,000 of
    the test file."""

    inputs = {"image": Tensor("float32", ("batch", 1, 28, 28))}
    outputs = {"logits": Output(("batch", 10), target="label")}
    classes = (
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {
        "image": [Scale(by=1 / 255), Normalize(mean=(0.286,), std=(0.353,))]
    }

    def data(self) -> list[Path | str]:
        folder = HOME.find()
        return [find_file(folder, name) for name in FILES]

    def split(self, name: SplitName) -> Split:
        images, labels, test_images, test_labels = (Path(path) for path in self.data())
        if name == "test":
            return make_split(read_idx(test_images), read_idx(test_labels))
        order = np.random.default_rng(0).permutation(len(read_idx(labels)))
        rows = {"train": order[HELD_OUT:], "validation": order[:HELD_OUT]}[name]
        return make_split(read_idx(images)[rows], read_idx(labels)[rows])

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Mirror half of the images and move all by up to one pixel."""
        return {"image": shift(flip(inputs["image"], generator), generator, 1)}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])

    def fetch(self) -> None:
        if HOME.find_complete() is None:
            download(HOME.places()[-1])
        for name, expected in FILES.items():
            check_sha256(find_file(HOME.find(), name), expected)


class FashionMnistErasing(FashionMnist):
    """The same images with stronger augmentation, which helps a training of twenty epochs and not
    one of five."""

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Mirror half of the images, move all by up to two pixels, and fill a rectangle in 40 % of
        them with one grey."""
        image = shift(flip(inputs["image"], generator), generator, 2)
        return {"image": erase(image, generator, 0.4, 12)}


def make_split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> InMemory:
    return InMemory(
        {"image": images[:, None]}, {"label": labels.astype(np.int64)}
    )  # (N, 1, 28, 28), (N,)


HOME = Home(
    "fashion-mnist",
    lambda folder: all(find_file(folder, name).is_file() for name in FILES),
    "Fashion-MNIST is not here; looked in {looked}. Run `attar fetch RECIPE`, or set ATTAR_DATA to "
    f"the folder that holds {', '.join(FILES)} (.gz or unpacked)",
    (DEBIAN_FOLDER,),
)


def find_file(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Return the array of an IDX file, cached until the file changes: a run asks for the splits
    many times, and unpacking is slow."""
    stamp = path.stat()
    return read_cached(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=len(FILES))
def read_cached(path: Path, mtime: int, size: int) -> npt.NDArray[np.uint8]:
    return parse_idx(path)


def parse_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Parse an IDX file of unsigned bytes: magic number, a big-endian size for each axis, the
    bytes."""
    content = read_unpacked(path)
    axes = MAGIC.get(content[:4], 0)
    header = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist()) if len(content) > header else ()
    if not shape or len(content) != header + np.prod(shape):
        raise StageError(
            f"{path} is no complete IDX file of bytes; delete it and run `attar fetch RECIPE`"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def download(folder: Path) -> None:
    """Download the four files to ``folder``: from the Debian package if apt is available (no root
    needed), else from the authors."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source = fetch_debian(Path(temporary)) or fetch_official(Path(temporary))
        for name, expected in FILES.items():
            check_sha256(source / f"{name}.gz", expected)
        for name in FILES:
            (source / f"{name}.gz").replace(folder / f"{name}.gz")


def fetch_debian(folder: Path) -> Path | None:
    """Download and unpack ``dataset-fashion-mnist``. Return None if there is no apt, or it lacks
    the package."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    download = subprocess.run(
        ["apt-get", "download", "dataset-fashion-mnist"], cwd=folder, capture_output=True
    )
    packages = list(folder.glob("*.deb"))
    if download.returncode != 0 or not packages:
        return None
    subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True, capture_output=True)
    return folder / DEBIAN_FOLDER.relative_to("/")


def fetch_official(folder: Path) -> Path:
    for name in FILES:
        url = f"{OFFICIAL_URL}/{name}.gz"
        try:
            urllib.request.urlretrieve(url, folder / f"{name}.gz")  # noqa: S310  # a constant address, and verified by its hash
        except OSError as error:
            raise StageError(
                f"cannot download {url}: {error}; get the four files yourself and set ATTAR_DATA"
            ) from error
    return folder


def check_sha256(path: Path, expected: str) -> None:
    got = hashlib.sha256(read_unpacked(path)).hexdigest()
    if got != expected:
        raise StageError(
            f"{path} has SHA-256 {got} when unpacked, expected {expected}; delete it and fetch "
            "again"
        )
