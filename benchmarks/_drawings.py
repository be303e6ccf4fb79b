"""Pictures of a real size: JPEGs of 224x224 made of the drawings in Debian's ``openclipart-png``
(public domain), in folders that are named as their classes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from attar.models.preprocess import ChannelsFirst, DecodeImage, Normalize, Scale
from attar.models.splits.files import FileSplit, list_classes
from attar.models.task import Array, Arrays, Output, Split, SplitName, Task, Tensor, hits

PACKAGE = "openclipart-png"
PLACE = "usr/share/openclipart/png"
SIDE = 224
"""Height and width of a picture, in pixels."""
VARIANTS = 3
"""Pictures of a drawing: 6,700 drawings are not 20,000."""
FARTHEST = 12
"""Pixels by which a view moves a picture at most."""
QUALITY = 90
"""Of the JPEGs, as Pillow counts it."""


def fetch_drawings(home: Path) -> Path:
    """Return the folder of the drawings; the package is downloaded and unpacked where it is
    missing, without root. ``apt-get update`` comes before."""
    folder = home / "drawings"
    if not folder.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as temporary:
            download = ["apt-get", "download", "-qq", PACKAGE]
            subprocess.run(download, cwd=temporary, check=True, capture_output=True)
            (package,) = Path(temporary).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, temporary], check=True)
            shutil.move(Path(temporary) / PLACE, folder)
    return folder


def make_pictures(home: Path, count: int) -> list[str]:
    """Return the names of ``count`` pictures in ``home/pictures``. Those that are there are kept.

    Each drawing gives ``VARIANTS`` of them: itself, and crops of it that are turned. What Pillow
    cannot read gives none.
    """
    drawings = sorted(fetch_drawings(home).glob("*/**/*.png"))
    np.random.default_rng(0).shuffle(drawings)  # so that the first ones are of all classes
    names: list[str] = []
    for number, drawing in enumerate(drawings):
        if len(names) < count:
            names += find_variants(home, number, drawing)
    return names[:count]


def find_variants(home: Path, number: int, drawing: Path) -> list[str]:
    """Return the names of the pictures of a drawing, which are made where they are missing; none
    if it cannot be read."""
    kind = drawing.relative_to(home / "drawings").parts[0]
    names = [f"{kind}/{number:05}-{variant}.jpg" for variant in range(VARIANTS)]
    files = [home / "pictures" / name for name in names]
    if not files[-1].is_file():  # written last
        try:
            draw_variants(drawing, files)
        except (OSError, ValueError, Image.DecompressionBombError):
            return []
    return names


def draw_variants(drawing: Path, files: list[Path]) -> None:
    """Write the pictures of a drawing: whole, and turned and cropped, all on white."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a map of 105 megapixels
        with Image.open(drawing) as image:
            image.thumbnail((2 * SIDE, 2 * SIDE))
            pixels = image.convert("RGBA")
    white = Image.new("RGBA", pixels.size, "white")
    white.alpha_composite(pixels)
    whole = white.convert("RGB")
    order = np.random.default_rng(int(files[0].name[:5]))
    for variant, file in enumerate(files):
        picture = whole if variant == 0 else turn_and_crop(whole, order)
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((SIDE, SIDE)).save(file, "JPEG", quality=QUALITY)


def turn_and_crop(image: Image.Image, order: np.random.Generator) -> Image.Image:
    """Return a window of 60 to 90 % of each side, after a turn of up to 30 degrees."""
    turned = image.rotate(order.uniform(-30, 30), fillcolor="white")
    share = order.uniform(0.6, 0.9)
    width, height = (max(1, int(share * side)) for side in image.size)
    left, top = order.integers(0, [image.width - width + 1, image.height - height + 1]).tolist()
    return turned.crop((left, top, left + width, top + height))


class Drawings(Task):
    """The class of a picture is the folder of its drawing, such as ``animals``."""

    inputs = {"image": Tensor("float32", ("batch", 3, SIDE, SIDE))}
    outputs = {"logits": Output(("batch", 32), target="label")}  # more than there are folders
    preprocess: ClassVar[Mapping[str, list[DecodeImage | ChannelsFirst | Scale | Normalize]]] = {
        "image": [
            DecodeImage(),
            ChannelsFirst(),
            Scale(by=1 / 255),
            Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    }

    def __init__(self, home: Path, names: list[str]) -> None:
        self.root, self.names = home / "pictures", names

    def data(self) -> list[Path | str]:
        return [self.root]

    def split(self, name: SplitName) -> Split:
        return FileSplit(self.root, list_classes(self.root), self.names)

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Mirror half of the pictures, and move each by up to 12 pixels: what leaves on one side
        enters on the other."""
        views = np.empty_like(inputs["image"])
        for row, image in enumerate(inputs["image"]):
            moves = generator.integers(-FARTHEST, FARTHEST + 1, 2).tolist()
            views[row] = np.roll(
                image[:, ::-1] if generator.random() < 0.5 else image, moves, (0, 1)
            )
        return {"image": views}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])
