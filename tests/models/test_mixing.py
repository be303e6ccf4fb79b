"""Mixed views: blended in the drawn shares, the same every time, and labels in the same shares as the inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models import views
from attar.models.epoch import Epoch, Source
from attar.models.mixing import PARTNER, SHARE, Mixing, check_mixing, draw_boxes
from attar.models.task import InMemory, Output, Task, Tensor
from attar.models.tasks.digits import Digits
from attar.pipeline.core.errors import StageError
from tests.support.tasks.noisy import Noisy, numbered

BOTH = Mixing(("mixup", "cutmix"), 1.0)


def test_a_box_by_hand() -> None:
    """A share of 3/4 leaves a box of half the height and half the width; around a corner a quarter of it is inside."""
    boxes = draw_boxes(np.array([[0.5, 0.5], [0.0, 0.0], [0.5, 0.5]]), np.array([0.75, 0.75, 1.0], np.float32), (4, 8))
    expected = np.zeros((3, 4, 8), bool)
    expected[0, 1:3, 2:6] = True
    expected[1, :1, :2] = True
    assert np.array_equal(boxes, expected)


@given(st.integers(0, 1000), st.sampled_from([("mixup",), ("cutmix",), ("mixup", "cutmix")]))
def test_inputs_and_labels_are_mixed_in_the_same_shares(seed: int, kinds: tuple[str, ...]) -> None:
    """Each image holds its own number everywhere, so its mean tells the share of its own that is left."""
    numbers = np.arange(12.0, dtype=np.float32)
    images = np.broadcast_to(numbers[:, None, None, None], (12, 2, 5, 7)).copy()
    mixing = Mixing(kinds, 1.0)  # type: ignore[arg-type]  # hypothesis samples strings
    inputs, targets = mixing.mix({"x": images}, {"y": numbers}, np.random.default_rng(seed))
    shares, partners = (np.asarray(targets[name], np.float32) for name in (SHARE, "y" + PARTNER))
    assert sorted(partners) == sorted(numbers)
    assert np.array_equal(targets["y"], numbers)
    assert inputs["x"].dtype == np.float32
    np.testing.assert_allclose(inputs["x"].mean((1, 2, 3)), shares * numbers + (1 - shares) * partners, rtol=1e-4, atol=1e-5)
    assert (shares >= 0).all()
    assert (shares <= 1).all()


def test_cutmix_copies_and_mixup_blends() -> None:
    numbers = np.arange(64.0, dtype=np.float32)
    images = np.broadcast_to(numbers[:, None, None, None], (64, 1, 6, 6)).copy()
    cut, _ = Mixing(("cutmix",), 1.0).mix({"x": images}, {}, np.random.default_rng(0))
    assert set(cut["x"].ravel().tolist()) <= set(numbers.tolist())
    blended, none = Mixing(("mixup",), 1.0).mix({"x": images}, {}, np.random.default_rng(0))
    assert (blended["x"] == blended["x"][:, :, :1, :1]).all()
    assert none == {}


def test_a_mixed_view_is_the_same_every_time_and_a_clean_one_is_not_mixed() -> None:
    task, split = Digits(), Digits().split("train")
    first, again = (views.make_chunk(task, split, 1, seed=3, view=2, mixing=BOTH) for _ in range(2))
    plain = views.make_chunk(task, split, 1, seed=3, view=2)
    assert all(first.inputs[name].tobytes() == again.inputs[name].tobytes() for name in first.inputs)
    assert first.targets[SHARE].tobytes() == again.targets[SHARE].tobytes()
    assert first.inputs["image"].tobytes() != plain.inputs["image"].tobytes()
    assert SHARE not in views.make_chunk(task, split, 1, mixing=BOTH).targets


def test_an_epoch_mixes_as_its_chunks_do_and_transfer_has_no_labels() -> None:
    task, mixing = Noisy(), Mixing(("mixup",), 1.0)
    source = Source(task, numbered(600), InMemory(numbered(600).inputs, {}), 3, mixing)
    whole = views.make_chunk(task, numbered(600), 0, seed=3, view=1, mixing=mixing)
    rows = {index: row for row, index in enumerate(whole.indices.tolist())}
    seen = 0
    for batch in Epoch(source, 100, 0).iterate_view(1):
        for place, index in enumerate(batch.indices.tolist()):
            if index in rows:
                assert batch.inputs["x"][place].tobytes() == whole.inputs["x"][rows[index]].tobytes()
                assert batch.targets[SHARE][place] == whole.targets[SHARE][rows[index]]
                seen += 1
        assert (batch.indices[batch.labelled :] >= 600).all()
    assert seen == 512


class TokenDigits(Digits):
    inputs = {"token": Tensor("int64", ("batch", 8), high=9)}


class Padded(Digits):
    inputs = {"frame": Tensor("float32", ("batch", "time"), pad=0)}


class ColumnDigits(Digits):
    inputs = {"column": Tensor("float32", ("batch", 3))}


class Places(Digits):
    outputs = {"logits": Output(("batch", 4, 10), target="label")}


@pytest.mark.parametrize(
    ("task", "named"), [(TokenDigits(), "token"), (Padded(), "frame"), (ColumnDigits(), "cutmix"), (Places(), "logits")]
)
def test_what_cannot_be_mixed_is_refused(task: Task, named: str) -> None:
    with pytest.raises(StageError, match=named):
        check_mixing(task, BOTH)


def test_what_can_be_mixed() -> None:
    check_mixing(Digits(), BOTH)
    check_mixing(ColumnDigits(), replace(BOTH, kinds=("mixup",)))
    assert Mixing.from_facts(None) is None
    assert Mixing.from_facts({"kinds": ["mixup", "cutmix"], "alpha": 1.0}) == BOTH
