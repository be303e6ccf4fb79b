"""Views can be replayed bit for bit, a chunk at a time, in any order; an epoch shows every sample once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attar.models import views
from attar.models.preprocess import ChannelsFirst, DecodeImage, Scale, Step
from attar.models.sample_order import BLOCK, find_places, list_blocks, shuffle_samples
from attar.models.task import Arrays, InMemory, Tensor
from tests.support.tasks.noisy import SPLIT, TASK, Noisy


@given(seed=st.integers(0, 2**31), view=st.integers(0, 2**21), number=st.integers(0, 2))
def test_a_chunk_is_the_same_every_time_and_no_other(seed: int, view: int, number: int) -> None:
    first = views.make_chunk(TASK, SPLIT, number, seed=seed, view=view)
    views.make_chunk(TASK, SPLIT, 2 - number, seed=seed, view=view)
    again = views.make_chunk(TASK, SPLIT, number, seed=seed, view=view)
    other = views.make_chunk(TASK, SPLIT, number, seed=seed, view=view + 1)
    assert first.inputs["x"].tobytes() == again.inputs["x"].tobytes()
    assert first.inputs["x"].tobytes() != other.inputs["x"].tobytes()


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_a_split_that_grows_keeps_the_chunks_of_whole_blocks(few: int, more: int) -> None:
    before, after = shuffle_samples(few), shuffle_samples(few + more)
    assert np.array_equal(np.sort(after), np.arange(few + more))
    assert np.array_equal(find_places(few)[before], np.arange(few))
    *whole, last = list_blocks(few)
    same = few if last == list_blocks(few + more)[len(whole)] else sum(whole)
    assert np.array_equal(before[:same], after[:same])
    assert same >= few // 2 - BLOCK


def test_clean_is_the_split_in_order() -> None:
    parts = list(views.iterate_clean(TASK, SPLIT))
    assert np.concatenate([part.indices for part in parts]).tolist() == list(range(1300))
    assert np.concatenate([part.inputs["x"] for part in parts]).tobytes() == SPLIT.inputs["x"].tobytes()


@given(samples=st.integers(1, 3 * len(SPLIT)), batch=st.integers(1, 700))
def test_a_spread_covers_the_split_evenly_and_never_twice(samples: int, batch: int) -> None:
    parts = list(views.iterate_spread(TASK, SPLIT, samples, batch))
    indices = np.concatenate([part.indices for part in parts])
    assert len(indices) == min(samples, len(SPLIT))
    assert all(len(part.indices) <= batch for part in parts)
    steps = np.diff([*indices, len(SPLIT)])
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


class DecodedPictures(Noisy):
    """PNG files of 4 x 4 pixels; a view mirrors what was decoded, before it is scaled."""

    inputs: ClassVar[dict[str, Tensor]] = {"x": Tensor("float32", ("batch", 3, 4, 4))}
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {"x": [DecodeImage(), ChannelsFirst(), Scale(by=1 / 255)]}

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        assert inputs["x"].dtype == np.uint8
        return {"x": inputs["x"][:, :, ::-1]}


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    with BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()


def test_images_are_decoded_then_augmented_then_scaled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    files = np.array([encode(image) for image in pixels], object)
    chunk = views.make_chunk(DecodedPictures(), InMemory({"x": files}, {"label": np.arange(3)}), 0, view=0)
    mirrored = pixels[:, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) * np.float32(1 / 255)
    assert (chunk.inputs["x"] == mirrored).all()
    clean = views.make_chunk(DecodedPictures(), InMemory({"x": files}, {"label": np.arange(3)}), 0)
    assert (clean.inputs["x"] == mirrored[..., ::-1]).all()
