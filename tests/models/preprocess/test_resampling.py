"""Resampling gives the very bytes that Pillow gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attar.models.preprocess.resampling import Filter, resize_image

THEIRS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SIDES = st.integers(1, 70)


def test_by_hand() -> None:
    line = np.array([[[0], [100]]], np.uint8)
    # centers at 1/4, 3/4, 5/4, 7/4: all of the first, 3 quarters of it, 1 quarter, none
    assert resize_image(line, 1, 4, "bilinear").ravel().tolist() == [0, 25, 75, 100]
    # shrunk to one: all of them weigh the same, for the triangle is as wide as the line
    assert resize_image(line, 1, 1, "bilinear").ravel().tolist() == [50]


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([1, 3]), st.sampled_from(["bilinear", "bicubic"]), st.integers(0, 99))
def test_the_same_bytes_as_pillow(h: int, w: int, height: int, width: int, channels: int, kind: Filter, seed: int) -> None:
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (h, w, channels), np.uint8)
    if seed % 2:  # black and white overshoot, so that clipping counts
        image = np.where(image > 127, 255, 0).astype(np.uint8)
    theirs = np.asarray(Image.fromarray(image.squeeze(2) if channels == 1 else image).resize((width, height), THEIRS[kind]))
    assert np.array_equal(resize_image(image, height, width, kind), theirs.reshape(height, width, channels))


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_a_photograph_s_size(kind: Filter) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1200, 1601, 3), np.uint8)
    assert np.array_equal(
        resize_image(image, 224, 299, kind), np.asarray(Image.fromarray(image).resize((299, 224), THEIRS[kind]))
    )
