"""The labels of several decisions a sample, and what such an output must declare."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from attar.models.checks.declarations import check_declarations
from attar.models.checks.labels import check_labels
from attar.models.checks.task import check_task
from attar.models.task import Batch, Output
from attar.models.tasks.attributes import ATTRIBUTES, Attributes
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
