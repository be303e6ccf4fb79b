"""Preprocessing is data: it survives JSON, and gives the same numbers after it."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from attar.models import preprocess
from attar.models.preprocess import Normalize, Scale, Step
from attar.models.preprocess.known import KnownStep
from attar.pipeline.core.errors import AttarError

STEPS = TypeAdapter(dict[str, list[KnownStep]])


def test_scale_and_normalize_by_hand() -> None:
    steps: dict[str, list[Step]] = {"image": [Scale(by=0.1), Normalize(mean=(1.0, 2.0), std=(0.5, 4.0))]}
    image = np.array([[[[20]], [[100]]]], np.uint8)  # (1, 2, 1, 1)
    made = preprocess.apply(steps, {"image": image})["image"]
    assert made.dtype == np.float32
    assert made.ravel().tolist() == pytest.approx([2.0, 2.0])


def test_inputs_without_steps_pass_unchanged() -> None:
    tokens = np.array([[1, 2]])
    assert preprocess.apply({}, {"tokens": tokens})["tokens"] is tokens


def test_an_input_that_is_no_array_is_named() -> None:
    steps = {"image": [Scale(by=2)]}
    with pytest.raises(AttarError, match=r"'image' .*'imagee'\?"):
        preprocess.apply(steps, {"imagee": np.ones(2)})
    with pytest.raises(AttarError, match=r"'image' .*got list"):
        preprocess.apply(steps, {"image": [1.0]})  # type: ignore[dict-item]  # the mistake


def test_the_raw_inputs_are_left_alone() -> None:
    raw = {"x": np.ones((2, 3), np.float32)}
    preprocess.apply({"x": [Scale(by=2)]}, raw)
    assert (raw["x"] == 1).all()


def test_json_and_back() -> None:
    steps: dict[str, list[KnownStep]] = {"image": [Scale(by=1 / 255), Normalize(mean=(0.286,), std=(0.353,))]}
    again = STEPS.validate_json(STEPS.dump_json(steps))
    image = np.random.default_rng(0).integers(0, 256, (4, 1, 5, 5), np.uint8)
    one, two = (preprocess.apply(each, {"image": image})["image"] for each in (steps, again))
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("step", [{"step": "rotate"}, {"step": "scale"}, {"step": "scale", "by": 1, "extra": 2}])
def test_unknown_steps_are_refused(step: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        STEPS.validate_python({"image": [step]})
