"""Steps on images: from the bytes of a file to channels first.

Images are uint8 ``[N, H, W, C]``. If they differ in size, they are an object array ``[N]`` of ``[H,
W, C]`` until a resize or a crop makes them equal.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from attar.models.preprocess import resampling
from attar.models.preprocess.step import Array, Step
from attar.models.tensors import describe_array
from attar.pipeline.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Formats that are decoded. Pillow knows more, but runs other programs for some of them."""
MAX_RESIZED_PIXELS = 50_000_000
"""Largest result of a resize: a file of 200 bytes can ask for 20 GB."""
MAX_SIDE = 2**16
"""Longest side that a resize reads, in pixels."""


class DecodeImage(Step):
    """Decode image files, an object array ``[N]`` of bytes, to images with 3 channels (``RGB``) or
    1 (``L``), by Pillow.

    Images are rotated by their EXIF orientation. Transparency is dropped. The first frame of an
    animation counts.
    """

    decodes: ClassVar[bool] = True
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
        images = [self.decode_image(file, row, len(files)) for row, file in enumerate(files)]
        return stack_images(images)

    def decode_image(self, file: bytes, number: int, count: int) -> Pixels:
        """Decode one file to ``[H, W, C]``. Raises AttarError that names the sample and the
        reason."""
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
                pixels = None if problem else np.asarray(rotate_upright(image, self.mode))
        except Image.DecompressionBombError as error:
            raise self.refuse(
                which,
                f"it claims more pixels than its max_pixels, {self.max_pixels}; send a smaller "
                "image",
            ) from error
        except Exception as error:  # a damaged file may raise anything
            reason = str(error).partition(" <_io")[0] or type(error).__name__
            raise self.refuse(
                which,
                f"no image of {', '.join(FORMATS)} ({reason}); send the whole file as it is on "
                "disk: no base64, no text",
            ) from error
        if pixels is None:
            raise self.refuse(which, str(problem))
        return pixels.reshape(*pixels.shape[:2], -1)

    def find_problem(self, image: Image) -> str | None:
        """Return why an image must not be decoded, by its header, or None."""
        if image.width * image.height > self.max_pixels:
            return (
                f"{image.width} x {image.height} pixels are more than its max_pixels, "
                f"{self.max_pixels}; send a smaller image"
            )
        # The mode of a colour image with 16 bits names 8; its tiles name 16.
        tiles: list[Any] = getattr(image, "tile", [])
        if image.mode.startswith(("I", "F")) or any(";16" in str(tile[3]) for tile in tiles):
            return (
                f"it has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits first"
            )
        return None


def rotate_upright(image: Image, mode: str) -> Image:
    from PIL import ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    opaque = image.convert("RGBA") if "transparency" in image.info else image
    return opaque if opaque.mode == mode else opaque.convert(mode)  # convert would copy


class ImageStep(Step):
    """A step that transforms images one by one."""

    def __call__(self, x: Array) -> Array:
        return stack_images([self.transform_image(image) for image in self.split_images(x)])

    @abstractmethod
    def transform_image(self, image: Pixels) -> Pixels:
        """Transform ``[H, W, C]`` to ``[H', W', C]``."""

    def split_images(self, x: Array) -> list[Pixels]:
        """Return the images of an array. Raises AttarError if it holds no images."""
        images: list[Any] = list(x) if x.ndim else []
        if not images or not all(is_image(image) for image in images):
            raise self.refuse(
                describe_array(x),
                "it reads uint8 images [N, H, W, C] with 1 to 4 channels, or an object array [N] "
                "of such images: put it behind decode_image, and before channels_first and scale",
            )
        return images


class Resize(ImageStep):
    """Resize images. For 1 or 3 channels the result has the same bytes as Pillow's
    ``Image.resize``.

    The filter widens when an image shrinks (antialias). The size is ``height`` and ``width``, or
    ``shorter`` for the shorter side, with the longer side in proportion, rounded down.
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

    def transform_image(self, image: Pixels) -> Pixels:
        """Raises AttarError for an image so narrow that its proportions would make the result
        enormous."""
        before, after = image.shape[:2], self.size(*image.shape[:2])
        if max(before) > MAX_SIDE or after[0] * after[1] > MAX_RESIZED_PIXELS:
            raise self.refuse(
                f"an image of {before[0]} x {before[1]}",
                f"it makes at most {MAX_RESIZED_PIXELS:,} pixels of sides up to {MAX_SIDE:,}, not "
                f"{after[0]} x {after[1]}; send one less narrow",
            )
        return resampling.resize_image(image, *after, self.filter)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the result. In proportion as in torchvision: ``int(shorter * long /
        short)``."""
        if self.shorter is None:
            return self.height or height, self.width or width
        short, long = min(height, width), max(height, width)
        longer = int(self.shorter * long / short)
        return (self.shorter, longer) if height <= width else (longer, self.shorter)


class CenterCrop(ImageStep):
    """Crop the middle of each image. An odd rest is split as in torchvision: ``round(rest / 2)`` is
    cut before the crop."""

    step: Literal["center_crop"] = "center_crop"
    height: int = Field(ge=1)
    width: int = Field(ge=1)

    def transform_image(self, image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        if height < self.height or width < self.width:
            raise self.refuse(
                f"an image of {height} x {width}",
                f"it cuts out {self.height} x {self.width}; put a resize before it, or crop less",
            )
        top, left = round((height - self.height) / 2), round((width - self.width) / 2)
        return image[top : top + self.height, left : left + self.width]


class ChannelsFirst(Step):
    """Transpose ``[N, H, W, C]`` to ``[N, C, H, W]``."""

    moves: ClassVar[bool] = True
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
    """Return the largest number of pixels that a picture (a file's bytes or ``[H, W, C]``) has at
    any of the steps, by its header or shape. Return 0 if it is no picture."""
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
    """Return height and width, or 0 and 0 if it is no picture; the step that reads it reports
    why."""
    if not isinstance(picture, bytes):
        return picture.shape[:2] if is_image(picture) else (0, 0)
    from PIL import Image

    try:
        with Image.open(BytesIO(picture), formats=FORMATS) as image:
            return image.height, image.width
    except Exception:  # noqa: BLE001  # a damaged file may raise anything
        return 0, 0


def is_image(value: Any) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3:
        return False
    return 0 not in value.shape and value.shape[2] <= 4


def stack_images(images: Sequence[Pixels]) -> Array:
    """Return one array if all sizes are equal, otherwise an array of objects."""
    if len({image.shape for image in images}) == 1:
        return np.stack(images)
    stacked = np.empty(len(images), object)
    for row, image in enumerate(images):
        stacked[row] = image
    return stacked
