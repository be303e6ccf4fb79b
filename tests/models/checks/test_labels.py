"""Labels of several decisions a sample and of positions, and what such outputs must declare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from attar.models.checks.declarations import check_declarations
from attar.models.checks.labels import check_labels
from attar.models.checks.task import check_task
from attar.models.task import Batch, InMemory, Output, Split, SplitName, Task
from attar.models.tasks.attributes import ATTRIBUTES, Attributes
from attar.models.tasks.digits import Digits
from attar.models.tasks.pixels import Pixels
from attar.pipeline.core.errors import StageError


def declared(**changes: Any) -> Attributes:
    made = type("Made", (Attributes,), changes)()
    assert isinstance(made, Attributes)
    return made


def outputs(*axes: int | str) -> dict[str, Output]:
    return {"attributes": Output(axes, kind="multilabel", target="attributes")}


def test_the_shipped_task_keeps_the_contract() -> None:
    task = Attributes()
    check_task(task)
    labels = np.asarray(task.split("test").take(np.arange(300)).targets["attributes"])
    assert labels.shape == (300, len(ATTRIBUTES))
    assert set(map(tuple, labels.tolist())) <= {
        tuple(int(digit in which) for which in ATTRIBUTES.values()) for digit in range(10)
    }
    assert len(set(map(tuple, labels.tolist()))) == 9  # 5 and 7 have the same


@pytest.mark.parametrize("axes", [("batch",), ("batch", 4, 6), ("batch", "labels"), ("batch", 0)])
def test_it_is_one_row_of_decisions_a_sample(axes: tuple[int | str, ...]) -> None:
    task = declared(outputs=outputs(*axes), classes=(), ranges={"batch": (1, 64), "labels": (1, 6)})
    with pytest.raises(StageError, match=r"outputs\['attributes'\].*LABELS"):
        check_declarations(task)


def test_all_labels_are_named_or_none() -> None:
    with pytest.raises(StageError, match=r"6 multilabel.* 2 names"):
        check_declarations(declared(classes=("even", "odd")))


WRONG: dict[str, npt.NDArray[Any]] = {
    "of several classes": np.array([3, 1]),
    "floats": np.ones((2, 6)),
    "numbers of the labels": np.array([[0, 1, 2, 3, 4, 5]] * 2),
    "minus for no": np.array([[1, -1, 1, 1, -1, 1]] * 2),
}


@pytest.mark.parametrize("labels", WRONG.values(), ids=WRONG)
def test_labels_are_columns_of_0_and_1(labels: npt.NDArray[Any]) -> None:
    with pytest.raises(StageError, match=r"'attributes'.* 0 (and|nor) 1"):
        check_labels(Attributes(), "here", Batch({}, {"attributes": labels}))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64])
def test_any_integers_of_0_and_1_are_labels(dtype: type[np.generic]) -> None:
    check_labels(Attributes(), "here", Batch({}, {"attributes": np.eye(6).astype(dtype)}))


# ---- classes at positions, some of them ignored


def at_pixels(**changes: Any) -> Pixels:
    made = type("Made", (Pixels,), {"outputs": {"logits": replace(Pixels.outputs["logits"], **changes)}})()
    assert isinstance(made, Pixels)
    return made


def pixel_labels(count: int = 2) -> npt.NDArray[np.uint8]:
    return np.asarray(Pixels().split("test").take(np.arange(count)).targets["label"], np.uint8).copy()


def test_the_shipped_task_of_pixels_keeps_the_contract() -> None:
    task = Pixels()
    check_task(task)
    batch = task.split("test").take(np.arange(300))
    image, labels = (np.asarray(each, np.int64) for each in (batch.inputs["image"], batch.targets["label"]))
    image = image[:, 0]
    assert set(np.unique(labels).tolist()) == {*range(11), 255}
    assert (image[labels == 0] < 4).all()
    assert (image[(labels > 0) & (labels < 11)] >= 8).all()
    assert ((image[labels == 255] >= 4) & (image[labels == 255] < 8)).all()


def test_a_label_to_ignore_is_no_class() -> None:
    with pytest.raises(StageError, match=r"ignore = 0, .*11 classes"):
        check_declarations(at_pixels(ignore=0))


@pytest.mark.parametrize(
    "changes",
    [{"kind": "values"}, {"target": None}, {"axes": ("batch", 11)}, {"kind": "multilabel", "axes": ("batch", 11)}],
)
def test_only_labels_of_positions_are_ignored(changes: dict[str, Any]) -> None:
    with pytest.raises(StageError, match="only labels of positions"):
        check_declarations(at_pixels(**changes))


def test_a_label_that_is_neither_class_nor_ignored() -> None:
    labels = pixel_labels()
    check_labels(Pixels(), "here", Batch({}, {"label": labels}))
    with pytest.raises(StageError, match=r"outside the 11 classes .*\[255\]; .*ignore="):
        check_labels(at_pixels(ignore=None), "here", Batch({}, {"label": labels}))
    labels[0, 0, 0] = 11
    with pytest.raises(StageError, match=r"1 labels outside the 11 classes .*\[11\]"):
        check_labels(Pixels(), "here", Batch({}, {"label": labels}))


def test_a_sample_of_which_all_is_ignored() -> None:
    labels = pixel_labels()
    labels[1] = 255
    with pytest.raises(StageError, match=r"1 samples of which every position is ignored .* row 1 "):
        check_labels(Pixels(), "here", Batch({}, {"label": labels}))


# ---- one class alone


def split_of(name: SplitName, label: list[int]) -> Task:
    """Digits of which one split has these labels."""

    def split(self: Digits, asked: SplitName) -> Split:
        whole = Digits.split(self, asked)
        if asked != name:
            return whole
        few = whole.take(np.arange(len(label)))
        return InMemory(few.inputs, {"label": np.asarray(label)})

    made = type("Made", (Digits,), {"split": split})()
    assert isinstance(made, Task)
    return made


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_split_that_judges_has_several_classes(name: SplitName) -> None:
    with pytest.raises(StageError, match=rf"split\('{name}'\) gives 'label' the class 3 in all of 5 samples"):
        check_task(split_of(name, label=[3] * 5))


def test_labels_of_train_may_say_nothing() -> None:
    check_task(split_of("train", label=[3] * 5))
    check_task(split_of("test", label=[3]))
    check_task(split_of("test", label=[3, 3, 4]))
