"""What a task's methods raise or return: each message names the method, and the line of the user's own that broke."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from attar.models.checks import task as task_check
from attar.models.splits.datasets import MapSplit
from attar.models.task import Array, Arrays, Batch, InMemory, Split, SplitName, Task
from attar.models.tasks.digits import Digits
from attar.pipeline.core.errors import StageError
from tests.support.tasks.token_task import TokenSentences


def changed(base: type[Task] = TokenSentences, **attributes: Any) -> Task:
    """A task with a mistake in what its class holds."""
    made = type("Made", (base,), attributes)()
    assert isinstance(made, Task)
    return made


def giving(given: Any, *, only: SplitName = "validation") -> Task:
    """Sentences whose split of this name is ``given``."""

    def split(self: TokenSentences, name: SplitName) -> Any:
        return given if name == only else TokenSentences.split(self, name)

    return changed(split=split)


def told(task: Task) -> str:
    with pytest.raises(StageError) as refused:
        task_check.check_task(task)
    return str(refused.value)


WHOLE = TokenSentences().split("validation").take(np.arange(9))


class GivenSplit(Split):
    """A split of the user's own, whose ``take`` gives what a test says."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def __len__(self) -> int:
        return 9

    def take(self, indices: npt.NDArray[np.int64]) -> Any:
        return self.given


@pytest.mark.parametrize("given", [None, [1, 2], ({}, {}), {"tokens": np.zeros(3)}, Batch({}, {})])
def test_a_split_of_another_class(given: Any) -> None:
    said = told(giving(given))
    assert said.startswith("Made.split('validation') ")
    assert f"got {type(given).__name__} " in said


@pytest.mark.parametrize("given", [None, (WHOLE.inputs, WHOLE.targets), {}])
def test_take_that_returns_no_batch(given: Any) -> None:
    assert "Made.split('validation').take must return" in told(giving(GivenSplit(given)))


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (
            WHOLE.inputs,
            {"value": np.zeros((7, 1))},
            "targets['value'] must have a row",
        ),
        (WHOLE.inputs, {"value": np.zeros(())}, "shape ()"),
        (WHOLE.inputs, {"value": [0.0] * 9}, "got list;"),
        (WHOLE.inputs, None, "targets must be a dict"),
        ({**WHOLE.inputs, "mask": WHOLE.inputs["mask"][:4]}, {}, "inputs['mask']"),
        ({}, {}, "got {}"),
        ([1], {}, "got [1]"),
        ({"tokens": [[1]]}, {}, "inputs['tokens'] must be"),
    ],
)
def test_arrays_that_are_not_one_row_a_sample(inputs: Any, targets: Any, message: str) -> None:
    """Longer targets too: indexing would cut them in silence, and every label could belong to another sample."""
    said = told(giving(InMemory(inputs, targets)))
    assert said.startswith("Made.split('validation'): ")
    assert message in said


def test_a_batch_of_the_wrong_length() -> None:
    said = told(giving(GivenSplit(Batch({name: array[:3] for name, array in WHOLE.inputs.items()}, WHOLE.targets))))
    assert said.startswith("Made.split('validation').take: inputs['tokens'] ")
    assert said.endswith("(3, 16)")


@pytest.mark.parametrize(
    ("target", "found"),
    [(np.zeros(9, np.float32), "float32 (9,)"), (np.full((9, 1), "a"), "<U1 (9, 1)"), (np.zeros((9, 2)), "float64 (9, 2)")],
)
def test_numbers_of_another_kind_or_shape(target: Array, found: str) -> None:
    said = told(giving(InMemory(WHOLE.inputs, {"value": target})))
    assert f"the target 'value' as {found};" in said
    assert "the output 'value', values of ('batch', 1)" in said


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda label: label / 10, "float64 (1197,)"), (lambda label: label[:, None], "int64 (1197, 1)")],
)
def test_labels_that_are_no_class_indices(change: Any, found: str) -> None:
    def split(self: Digits, name: SplitName) -> Split:
        whole = Digits.split(self, name)
        batch = whole.take(np.arange(len(whole)))
        return InMemory(batch.inputs, {"label": change(batch.targets["label"])})

    said = told(changed(Digits, split=split))
    assert f"the target 'label' as {found}; the output 'logits'" in said
    assert "('batch',)" in said


def test_integers_where_floats_are_declared() -> None:
    inputs = {**WHOLE.inputs, "mask": np.asarray(WHOLE.inputs["mask"], np.int64)}
    said = told(giving(InMemory(inputs, WHOLE.targets)))
    assert "'mask' as int64 (9, 16)" in said
    assert "`preprocess`" in said


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda given: None, "got None"),
        (lambda given: tuple(given.values()), "got (array"),
        (
            lambda given: {"tokens": given["tokens"]},
            "got ['tokens']",
        ),
        (
            lambda given: {**given, "mask": given["mask"][:5]},
            "row for each of 512",
        ),
    ],
)
def test_an_augmentation_of_other_names_or_numbers(made: Any, message: str) -> None:
    said = told(changed(augment=lambda self, inputs, generator: made(inputs)))
    assert said.startswith("Made.augment")
    assert message in said


class Raising(TokenSentences):
    """One of its methods raises, in a helper of the user's own or in a library."""

    how = ""

    def data(self) -> list[str]:
        return [fail(self.how == "data")]

    def split(self, name: SplitName) -> Split:
        fail(self.how == "split" and name == "test")
        return LaterSplit(super().split(name)) if self.how in {"take", "len"} else super().split(name)

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        if self.how == "augment":
            np.concatenate([])
        return super().augment(inputs, generator)

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        fail(self.how == "score")
        return super().score(outputs, targets)


class LaterSplit(Split):
    def __init__(self, whole: Split) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        fail(indices[-1] > 1000)  # not among the first samples
        return self.whole.take(indices)


def fail(wanted: bool) -> str:
    known = {"version": "version 1"}
    return known["gone" if wanted else "version"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("data", r"Raising\.data\(\) raised KeyError: 'gone' \(test_calls\.py:\d+, in fail\)"),
        ("split", r"Raising\.split\('test'\) .*'gone' .*in fail\)"),
        ("take", r"Raising\.split\('train'\)\.take .*'gone' .*in fail\)"),
        ("augment", r"Raising\.augment .*ValueError: .*, in Raising\.augment\)"),
        ("score", r"Raising\.score .*'gone' .*in fail\)"),
    ],
)
def test_what_a_method_raises_names_it_and_its_line(how: str, message: str) -> None:
    task = Raising()
    task.how = how
    with pytest.raises(StageError, match=message) as refused:
        task_check.check_task(task)
    cause = refused.value.__cause__
    while isinstance(cause, StageError):  # of one that names a sample
        cause = cause.__cause__
    assert isinstance(cause, (KeyError, ValueError))


def test_a_length_that_is_none() -> None:
    class Endless(GivenSplit):
        def __len__(self) -> int:
            raise RuntimeError("nobody knows")

    said = told(giving(Endless(WHOLE)))
    assert said.startswith("the length of Made.split('validation')")
    assert "RuntimeError: nobody knows (test_calls.py:" in said


def test_a_length_that_lies() -> None:
    class LongerSplit(GivenSplit):
        def __len__(self) -> int:
            return 12

        def take(self, indices: npt.NDArray[np.int64]) -> Batch:
            return Batch(*({name: array[indices] for name, array in part.items()} for part in (WHOLE.inputs, WHOLE.targets)))

    said = told(giving(LongerSplit(WHOLE)))
    assert said.startswith("sample 9 of Made.split('validation'): Made.split('validation').take raised IndexError: ")
    assert "the length of Made.split('validation') is 12" in said


def test_a_wrong_place_says_nothing_of_the_length() -> None:
    said = told(giving(MapSplit([(1,)], {"tokens": 1}, {})))
    assert said.startswith("a sample of list has no place 1, it has 1 values;")
    assert "the length of" not in said


def test_a_call_with_other_arguments_has_no_line_of_its_own() -> None:
    said = told(changed(split=lambda self: InMemory(WHOLE.inputs, WHOLE.targets)))
    assert said.startswith("Made.split('train') ")
    assert said.endswith("2 were given")


def test_what_attar_says_itself_passes_as_it_is() -> None:
    def split(self: TokenSentences, name: SplitName) -> Split:
        raise StageError("fetch them")

    assert told(changed(split=split)) == "fetch them"


def test_preprocessing_of_what_is_not_there() -> None:
    task = changed(Digits, preprocess={"imge": Digits.preprocess["image"]})
    assert "'imge', which" in told(task)


def test_take_that_returns_other_samples_than_it_is_asked_for() -> None:
    class DeafRows(InMemory):
        def take(self, indices: npt.NDArray[np.int64]) -> Batch:
            return super().take(np.arange(len(indices)))

    part = TokenSentences().split("train")
    assert isinstance(part, InMemory)
    message = told(giving(DeafRows(part.inputs, part.targets), only="train"))
    assert "split('train').take gives other samples" in message


def test_a_task_is_checked_once_for_each_content_of_its_data() -> None:
    versions, calls = ["points 1"], []

    def score(self: Task, outputs: Arrays, targets: Arrays) -> Array:
        calls.append(versions[0])
        return TokenSentences.score(TokenSentences(), outputs, targets)

    task = changed(data=lambda self: list(versions), score=score)
    for version in ("points 1", "points 1", "points 2", "points 2"):
        versions[0] = version
        task_check.check_task_once(task)
    assert calls == ["points 1", "points 2"]
