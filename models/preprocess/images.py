"""Steps on images: from the bytes of a file to channels first.

Images are uint8 ``[N, H, W, C]``; where they differ in size, an object array ``[N]`` of ``[H, W,
C]``, until a resize or a crop makes them equal.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from attar.models.preprocess import resampling
from attar.models.preprocess.step import Array, Step, describe_array
from attar.pipeline.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded. Pillow knows more, but some of them run other programs."""
MOST, LONGEST = 50_000_000, 2**16
"""Pixels that a resize makes at most, and the longest side that it reads: a file of 200 bytes can
ask for 20 GB."""


class DecodeImage(Step):
    """The bytes of image files, an object array ``[N]``, to images with 3 channels (``RGB``) or 1
    (``L``), by Pillow.

    They are turned as their EXIF orientation says. Transparency is dropped; of an animation the
    first frame counts.
    """

    step: Literal["decode_image"] = "decode_image"
    mode: Literal["RGB", "L"] = "RGB"
    max_pixels: int = Field(50_000_000, ge=1, le=178_000_000)
    """Larger images are refused before they are decoded: a small file may claim to hold a huge
    one."""

    def __call__(self, x: Array) -> Array:
        files = x.tolist()
        if x.ndim != 1 or x.dtype != object or not all(isinstance(file, bytes) for file in files):
            raise self.refuse(
                describe_array(x),
                "it reads whole files: an object array [N] of bytes (dtype S loses zeros at the "
                "end)",
            )
        return stack_images(
            [self.decode_image(file, number, len(files)) for number, file in enumerate(files)]
        )

    def decode_image(self, file: bytes, number: int, count: int) -> Pixels:
        """One file to ``[H, W, C]``. Raises AttarError that says which of them cannot be decoded,
        and why."""
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingDependencyError(
                "the step 'decode_image' needs Pillow: pip install 'attar[serve-image]'"
            ) from error
        which = f"{len(file)} bytes as sample {number} of {count}"
        try:
            with Image.open(BytesIO(file), formats=FORMATS) as image:
                problem = self.find_problem(image)
                made = None if problem else np.asarray(rotate_upright(image, self.mode))
        except Image.DecompressionBombError as error:
            raise self.refuse(
                which,
                f"it claims more pixels than its max_pixels, {self.max_pixels}; send a smaller "
                "image",
            ) from error
        except Exception as error:  # a damaged file may raise anything, in any of Pillow's decoders
            said = str(error).partition(" <_io")[0] or type(error).__name__
            raise self.refuse(
                which,
                f"no image of {', '.join(FORMATS)} ({said}); send the whole file as it is on disk: "
                "no base64, no text",
            ) from error
        if made is None:
            raise self.refuse(which, str(problem))
        return made.reshape(*made.shape[:2], -1)

    def find_problem(self, image: Image) -> str | None:
        """Why an image should not be decoded, by what its header says."""
        if image.width * image.height > self.max_pixels:
            return (
                f"{image.width} x {image.height} pixels are more than its max_pixels, "
                f"{self.max_pixels}; send a smaller image"
            )
        tiles: list[Any] = getattr(
            image, "tile", []
        )  # of a colour image with 16 bits, whose mode tells of 8
        if image.mode.startswith(("I", "F")) or any(";16" in str(tile[3]) for tile in tiles):
            return (
                f"it has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits first"
            )
        return None


def rotate_upright(image: Image, mode: str) -> Image:
    from PIL import ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    shown = image.convert("RGBA") if "transparency" in image.info else image
    return shown if shown.mode == mode else shown.convert(mode)  # which would copy


class ImageStep(Step):
    """What is done to one image after the other."""

    def __call__(self, x: Array) -> Array:
        return stack_images([self.transform_image(each) for each in self.split_images(x)])

    @abstractmethod
    def transform_image(self, one: Pixels) -> Pixels:
        """``[H, W, C]`` to ``[H', W', C]``."""

    def split_images(self, x: Array) -> list[Pixels]:
        """Raises AttarError for what are no images."""
        each: list[Any] = list(x) if x.ndim else []
        if not each or not all(is_image(one) for one in each):
            raise self.refuse(
                describe_array(x),
                "it reads uint8 images [N, H, W, C] with 1 to 4 channels, or an object array [N] "
                "of such images: put it behind decode_image, and before channels_first and scale",
            )
        return each


class Resize(ImageStep):
    """Images of another size, of 1 or 3 channels to the very bytes of Pillow's ``Image.resize``.

    When it shrinks, the filter grows (antialias). To ``height`` and ``width``; or so that the
    shorter side is ``shorter`` and the longer one in proportion, rounded down.
    """

    step: Literal["resize"] = "resize"
    height: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)
    shorter: int | None = Field(None, ge=1)
    filter: resampling.Filter = "bilinear"

    @model_validator(mode="after")
    def _check_size(self) -> Resize:
        given = (self.height is not None, self.width is not None, self.shorter is not None)
        if given not in {(True, True, False), (False, False, True)}:
            raise ValueError("resize takes height and width, or shorter alone")
        return self

    def transform_image(self, one: Pixels) -> Pixels:
        """Raises AttarError for one so narrow that keeping its proportions would make it
        enormous."""
        before, after = one.shape[:2], self.size(*one.shape[:2])
        if max(before) > LONGEST or after[0] * after[1] > MOST:
            raise self.refuse(
                f"an image of {before[0]} x {before[1]}",
                f"it makes at most {MOST:,} pixels of sides up to {LONGEST:,}, not {after[0]} x "
                f"{after[1]}; send one less narrow",
            )
        return resampling.resize_image(one, *after, self.filter)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of the image that is made. In proportion as in torchvision: ``int(shorter * long /
        short)``."""
        if self.shorter is None:
            return self.height or height, self.width or width
        short, long = min(height, width), max(height, width)
        longer = int(self.shorter * long / short)
        return (self.shorter, longer) if height <= width else (longer, self.shorter)


class CenterCrop(ImageStep):
    """The middle of each image; an odd rest is shared out as in torchvision: ``round(rest / 2)`` is
    left off before it."""

    step: Literal["center_crop"] = "center_crop"
    height: int = Field(ge=1)
    width: int = Field(ge=1)

    def transform_image(self, one: Pixels) -> Pixels:
        height, width = one.shape[:2]
        if height < self.height or width < self.width:
            raise self.refuse(
                f"an image of {height} x {width}",
                f"it cuts out {self.height} x {self.width}; put a resize before it, or crop less",
            )
        top, left = round((height - self.height) / 2), round((width - self.width) / 2)
        return one[top : top + self.height, left : left + self.width]


class ChannelsFirst(Step):
    """``[N, H, W, C]`` to ``[N, C, H, W]``."""

    step: Literal["channels_first"] = "channels_first"

    def __call__(self, x: Array) -> Array:
        if x.dtype == object:
            raise self.refuse(
                describe_array(x),
                "images of different sizes make no tensor; put a resize or a center_crop before it",
            )
        if x.ndim != 4:
            raise self.refuse(
                describe_array(x),
                "it reads [N, H, W, C]; a grey image needs an axis of one channel",
            )
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def count_step_pixels(steps: Sequence[Step], picture: Any) -> int:
    """The most that a picture, a file's bytes or ``[H, W, C]``, has on its way through the steps,
    by its header or its shape; 0 where a step tells what is wrong with it."""
    height, width = measure_picture(picture)
    most = height * width
    if not most:
        return 0
    for step in steps:
        if isinstance(step, Resize):
            height, width = step.size(height, width)
        elif isinstance(step, CenterCrop):
            height, width = min(height, step.height), min(width, step.width)
        most = max(most, height * width)
    return most


def measure_picture(picture: Any) -> tuple[int, int]:
    """Height and width; of what is no picture 0, and its sender hears why from the step that reads
    it."""
    if not isinstance(picture, bytes):
        return picture.shape[:2] if is_image(picture) else (0, 0)
    from PIL import Image

    try:
        with Image.open(BytesIO(picture), formats=FORMATS) as image:
            return image.height, image.width
    except Exception:  # noqa: BLE001  # a damaged file may raise anything
        return 0, 0


def is_image(one: Any) -> bool:
    right = isinstance(one, np.ndarray) and one.dtype == np.uint8 and one.ndim == 3
    return right and 0 not in one.shape and one.shape[2] <= 4


def stack_images(images: Sequence[Pixels]) -> Array:
    """One array where all sizes are the same, otherwise an array of objects."""
    if len({image.shape for image in images}) == 1:
        return np.stack(images)
    made = np.empty(len(images), object)
    for row, image in enumerate(images):
        made[row] = image
    return made
