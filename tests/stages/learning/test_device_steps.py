"""The steps of preprocessing that a GPU computes have the bits of those that the host computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch

from attar.models import preprocess
from attar.models.epoch import Source
from attar.models.preprocess import ChannelsFirst, DecodeImage, Normalize, Resize, Scale, Step
from attar.models.preprocess.known import KnownStep
from attar.models.task import InMemory, Tensor
from attar.models.tasks.fashion import FashionMnist
from attar.pipeline.core.errors import StageError
from attar.stages.learning.device_steps import DeviceSteps, create_step
from attar.stages.learning.lesson import Lesson, send_lesson
from tests.support.engines.played_gpu import PLAYED, play_gpu

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES: list[list[Step]] = [
    [ChannelsFirst()],
    [ChannelsFirst(), Scale(by=1 / 255), Normalize(mean=MEAN, std=STD)],
    [ChannelsFirst(), Normalize(mean=(127.5,), std=(3.0,)), Scale(by=0.1)],
]


def draw(dtype: str) -> np.ndarray[Any, Any]:
    """Every byte in every channel, for integers; for floats numbers of many magnitudes."""
    generator = np.random.default_rng(0)
    if dtype == "uint8":
        return np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (2, 16, 16, 3)).copy()
    drawn = generator.standard_normal((2, 16, 16, 3)) * 10.0 ** generator.integers(-3, 4, (2, 16, 16, 3))
    return np.asarray(drawn, dtype)


@pytest.mark.parametrize("steps", IMAGES, ids=lambda steps: "-".join(type(step).__name__ for step in steps))
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float32", "float64"])
def test_the_bits_are_those_of_the_host(steps: Sequence[Step], dtype: str) -> None:
    raw = {"image": draw(dtype)}
    expected = preprocess.apply({"image": steps}, raw)["image"]
    got = DeviceSteps({"image": steps}, CPU).apply(send_lesson(Lesson(raw, {}, 2), CPU)).inputs["image"]
    np.testing.assert_array_equal(got.numpy(), expected)
    assert got.numpy().dtype == expected.dtype


def test_every_step_that_moves_is_known() -> None:
    moving = {step for step in get_args(get_args(KnownStep)[0]) if step.moves}
    assert moving == {ChannelsFirst, Scale, Normalize}
    with pytest.raises(StageError, match="Resize is computed on the host"):
        create_step(Resize(shorter=8), CPU)


def test_the_last_steps_move_and_no_step_before_one_that_stays() -> None:
    steps: list[Step] = [DecodeImage(), Scale(by=2), Resize(shorter=8), ChannelsFirst(), Scale(by=3)]
    host, moved = preprocess.split_steps({"image": steps, "other": steps[3:]})
    assert (host["image"], moved["image"]) == (steps[:3], steps[3:])
    assert (host["other"], moved["other"]) == ([], steps[3:])


class Clothes(FashionMnist):
    """Its steps and its views, of images that are drawn."""

    def data(self) -> list[Any]:
        return ["drawn 1"]


def make_sources(images: np.ndarray[Any, Any]) -> list[Source]:
    split = InMemory({"image": images}, {"label": np.arange(len(images)) % 10})
    return [Source(Clothes(), split, leaves_steps=leaves) for leaves in (False, True)]


def test_a_view_whose_steps_are_left_is_the_same_view() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 28, 28), np.uint8)
    whole, raw = (source.read_chunk(3, 0) for source in make_sources(images))
    assert raw.inputs["image"].dtype == np.uint8
    steps = make_sources(images)[1].split_steps()[1]
    with play_gpu() as gpu:
        moved = DeviceSteps(steps, PLAYED)
        gpu.waits.clear()
        got = moved.apply(send_lesson(Lesson(raw.inputs, {}, 40), PLAYED)).inputs["image"]
        assert gpu.waits == []
        np.testing.assert_array_equal(got.cpu().numpy(), whole.inputs["image"])


def test_numbers_of_the_other_byte_order_are_sent_as_the_same_numbers() -> None:
    steps: list[Step] = [ChannelsFirst(), Normalize(mean=MEAN, std=STD)]
    raw = {"image": draw("int16").astype(">i2")}
    got = DeviceSteps({"image": steps}, CPU).apply(send_lesson(Lesson(raw, {}, 2), CPU)).inputs["image"]
    np.testing.assert_array_equal(got.numpy(), preprocess.apply({"image": steps}, raw)["image"])


def test_no_step_is_left_of_an_input_whose_padding_is_cut_on_the_host() -> None:
    """Else it would be cut where raw numbers are 0, and on a CPU where scaled ones are."""

    class Films(Clothes):
        inputs = {
            "image": Tensor("float32", ("batch", 1, 28, 28)),
            "sound": Tensor("float32", ("batch", "time"), pad=0),
            "frames": Tensor("float32", ("batch", 1, "time", 28)),
        }
        preprocess = dict.fromkeys(inputs, (Normalize(mean=(1,), std=(2,)),))

    split = InMemory({}, {})
    host, moved = Source(Films(), split, leaves_steps=True).split_steps()
    assert host == {**Films.preprocess, "image": ()}
    assert moved == {"image": Films.preprocess["image"]}


def test_what_a_step_does_not_read_is_told_as_on_the_host() -> None:
    class WideClothes(Clothes):
        preprocess = {"image": [Normalize(mean=MEAN, std=STD)]}

    split = InMemory({"image": np.zeros((4, 1, 28, 28), np.uint8)}, {"label": np.arange(4)})
    with pytest.raises(StageError, match=r"'normalize' got uint8.*3 means"):
        Source(WideClothes(), split, leaves_steps=True).read_chunk(0, 0)
