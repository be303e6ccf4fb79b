"""Image steps against Pillow, and what they say about anything that they do not read."""

from __future__ import annotations

import struct
import sys
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from attar.models.preprocess import CenterCrop, ChannelsFirst, DecodeImage, Normalize, Resize, Scale, Step, apply
from attar.pipeline.core.errors import AttarError

SIDES = st.integers(1, 20)


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels if channels > 1 else pixels[:, :, 0]).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(height: int, width: int, bits: int, kind: int, stride: int) -> bytes:
    """A black PNG of any depth: what Pillow itself does not write (PNG specification, sections 5 and 11.2.2)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    rows = zlib.compress(b"\0" * (height * (1 + stride)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def objects(*each: Any) -> Any:
    made = np.empty(len(each), object)
    for row, one in enumerate(each):
        made[row] = one
    return made


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_as_pillow_decodes_it(kind: str, mode: Any) -> None:
    file = encoded(picture(5, 7), kind)
    expected = np.asarray(Image.open(BytesIO(file)).convert(mode)).reshape(5, 7, -1)
    made = DecodeImage(mode=mode)(objects(file, file))
    assert made.dtype == np.uint8
    assert np.array_equal(made, np.stack([expected, expected]))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1"])
def test_other_modes_become_what_is_asked_for(mode: str) -> None:
    image = picture(4, 4).convert(mode)
    made = DecodeImage()(objects(encoded(image, "JPEG" if mode == "CMYK" else "PNG")))
    assert made.shape == (1, 4, 4, 3)
    if mode != "CMYK":  # JPEG loses
        assert np.array_equal(made[0], np.asarray(image.convert("RGB")))


def test_a_transparent_palette_is_decoded_without_a_warning() -> None:
    image = picture(4, 4).quantize(4)
    made = DecodeImage()(objects(encoded(image, transparency=bytes([0, 128, 255, 255]))))
    assert np.array_equal(made[0], np.asarray(image.convert("RGB")))


def test_the_orientation_of_a_camera_is_applied() -> None:
    image = picture(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # was taken with the camera turned: rotate by 90 degrees clockwise to show it
    made = DecodeImage()(objects(encoded(image, exif=exif)))
    assert np.array_equal(made[0], np.rot90(np.asarray(image), -1))


def test_pictures_of_different_sizes_pass_until_they_are_made_equal() -> None:
    files = objects(*(encoded(picture(height, width)) for height, width in [(8, 12), (10, 6), (9, 9)]))
    steps: list[Step] = [DecodeImage(), Resize(shorter=4), CenterCrop(height=4, width=4), ChannelsFirst(), Scale(by=1 / 255)]
    steps.append(Normalize(mean=(0.5, 0.4, 0.3), std=(0.5, 0.5, 0.5)))
    decoded = DecodeImage()(files)
    assert decoded.dtype == object
    assert [one.shape for one in decoded] == [(8, 12, 3), (10, 6, 3), (9, 9, 3)]
    assert [one.shape for one in Resize(shorter=4)(decoded)] == [(4, 6, 3), (6, 4, 3), (4, 4, 3)]
    made = apply({"image": steps}, {"image": files})["image"]
    assert made.dtype == np.float32
    assert made.shape == (3, 3, 4, 4)
    first = np.asarray(picture(8, 12).resize((6, 4), Image.Resampling.BILINEAR))[:, 1:5].transpose(2, 0, 1)
    by_hand = (first.astype(np.float32) * np.float32(1 / 255) - np.array([[[0.5]], [[0.4]], [[0.3]]], np.float32)) / np.float32(
        0.5
    )
    assert np.array_equal(made[0], by_hand)


@given(SIDES, SIDES, SIDES, SIDES)
def test_one_by_one_or_together_is_the_same(height: int, width: int, new_height: int, new_width: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
    step = Resize(height=new_height, width=new_width, filter="bicubic")
    together = step(images)
    assert together.shape == (3, new_height, new_width, 3)
    assert np.array_equal(together, step(objects(*images)))
    assert np.array_equal(together, np.concatenate([step(images[row : row + 1]) for row in range(3)]))


@given(SIDES, SIDES, SIDES, SIDES)
def test_a_crop_is_the_middle(height: int, width: int, more: int, wider: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, height + more, width + wider, 1), np.uint8)
    made = CenterCrop(height=height, width=width)(image)
    top, left = round(more / 2), round(wider / 2)
    assert np.array_equal(made, image[:, top : top + height, left : left + width])


def test_proportions_as_in_torchvision() -> None:
    assert Resize(shorter=256).size(375, 500) == (256, 341)  # 341.33
    assert Resize(shorter=256).size(500, 375) == (341, 256)
    assert Resize(shorter=7).size(3, 3) == (7, 7)
    assert Resize(height=2, width=9).size(3, 3) == (2, 9)


@pytest.mark.parametrize("sizes", [{}, {"height": 4}, {"width": 4}, {"height": 4, "width": 4, "shorter": 4}])
def test_a_resize_says_one_size(sizes: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="shorter alone"):
        Resize.model_validate(sizes)


PNG = encoded(picture(4, 4))
SIXTEEN_COLOURS = png(2, 2, 16, 2, 6 * 2)
SIXTEEN = encoded(Image.fromarray(np.zeros((2, 2), np.uint16)))


@pytest.mark.parametrize(
    ("step", "raw", "message"),
    [
        (
            DecodeImage(),
            np.array([PNG]),
            r"'decode_image' got \|S\d+ \[1\]; it reads whole files: an object array \[N\] of bytes",
        ),
        (DecodeImage(), objects("a.png"), r"str objects \[1\]"),
        (DecodeImage(), np.zeros((1, 4, 4, 3), np.uint8), r"got uint8 \[1, 4, 4, 3\]"),
        (
            DecodeImage(),
            objects(PNG, b"garbage"),
            r"7 bytes .*sample 1 of 2",
        ),
        (DecodeImage(), objects(PNG[:-30]), r"sample 0 of 1; .*whole file"),
        (DecodeImage(), objects(encoded(picture(4, 4), "TIFF")), "JPEG, PNG, WEBP"),
        (DecodeImage(max_pixels=15), objects(PNG), r"4 x 4 pixels .*15;"),
        (
            DecodeImage(),
            objects(encoded(Image.new("1", (20_000, 20_000)))),
            "max_pixels, 50000000",
        ),
        (DecodeImage(), objects(SIXTEEN), r"8 bits .*mode I;16"),
        (DecodeImage(), objects(SIXTEEN_COLOURS), "8 bits a channel"),
        (Resize(shorter=256), np.zeros((1, 1, 65_000, 3), np.uint8), r"1 x 65000; .*50,000,000"),
        (
            Resize(height=2, width=2),
            np.zeros((1, 1, 65_537, 1), np.uint8),
            "65,536, not 2 x 2",
        ),
        (Resize(shorter=2), np.zeros((1, 4, 4, 3), np.float32), "'resize' got float32"),
        (Resize(shorter=2), np.zeros((1, 3, 8, 8), np.uint8), r"\[1, 3, 8, 8\]; .*channels_first"),
        (Resize(shorter=2), np.zeros((2, 8, 8), np.uint8), r"with 1 to 4 channels"),
        (Resize(shorter=2), np.zeros((0, 8, 8, 3), np.uint8), r"got uint8 \[0, 8, 8, 3\]"),
        (Resize(shorter=2), objects(PNG), r"bytes objects \[1\]; .*decode_image"),
        (
            CenterCrop(height=5, width=4),
            np.zeros((1, 4, 4, 3), np.uint8),
            r"4 x 4; .*5 x 4;",
        ),
        (
            ChannelsFirst(),
            objects(np.zeros((1, 1, 1)), np.zeros((2, 1, 1))),
            r"different sizes .*resize",
        ),
        (ChannelsFirst(), np.zeros((1, 4, 4)), r"'channels_first' .*\[1, 4, 4\];"),
        (Scale(by=2), objects(PNG), "'scale' got bytes objects"),
        (Normalize(mean=(1,), std=(1,)), np.array(["text"]), "'normalize' got <U4"),
        (
            Normalize(mean=(1, 2, 3), std=(1,)),
            np.zeros((1, 4, 4, 3)),
            r"3 means and 1 .*channels_first",
        ),
        (Normalize(mean=(1, 2), std=(1, 2)), np.zeros((2, 1)), "2 means and 2 deviations"),
    ],
)
def test_what_a_step_does_not_read(step: Step, raw: Any, message: str) -> None:
    with pytest.raises(AttarError, match=message):
        step(raw)


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(AttarError, match=r"Pillow: .*attar\[serve-image\]"):
        DecodeImage()(objects(PNG))
