"""The contract of a task, and what a task or a network is refused for before anything is spent on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from attar.engines.runtimes.torch import build_network, check_network
from attar.models import views
from attar.models.checks import declarations as task_declared
from attar.models.checks import task as task_check
from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor, hits, load_task
from attar.models.tasks.digits import Digits
from attar.pipeline.core.errors import StageError
from tests.support.tasks.token_task import TokenSentences, teacher

DIGITS = "attar.models.tasks.digits:Digits"
RESIDUAL = "attar.models.networks.residual:residual"


class ReplacedSentences(TokenSentences):
    """Sentences whose splits a test replaces."""

    replaced: ClassVar[dict[SplitName, Split]] = {}

    def split(self, name: SplitName) -> Split:
        return self.replaced.get(name) or super().split(name)


class RelabelledDigits(Digits):
    """Digits with one label changed."""

    label: ClassVar[int] = 0

    def split(self, name: SplitName) -> Split:
        whole = super().split(name).take(np.arange(50))
        labels = np.asarray(whole.targets["label"]).copy()
        labels[3] = self.label
        return InMemory(whole.inputs, {"label": labels})


def broken(**splits: Split) -> ReplacedSentences:
    made = type("Made", (ReplacedSentences,), {"replaced": splits})()
    assert isinstance(made, ReplacedSentences)
    return made


def rows(split: SplitName, start: int, stop: int) -> InMemory:
    batch = TokenSentences().split(split).take(np.arange(start, stop))
    return InMemory(batch.inputs, batch.targets)


@pytest.mark.parametrize("task", [Digits(), TokenSentences()])
def test_tasks_that_are_right_pass(task: Digits | TokenSentences) -> None:
    task_check.check_task(task)
    assert [task.split(name).take(np.arange(3)).inputs.keys() for name in task_check.SPLITS]


def test_digits_are_split_without_overlap() -> None:
    sizes = {name: len(Digits().split(name)) for name in task_check.SPLITS}
    assert sizes == {"train": 1197, "validation": 300, "test": 300}


def test_load_task_refuses_what_is_no_task() -> None:
    with pytest.raises(StageError, match="derives from"):
        load_task(RESIDUAL)
    with pytest.raises(StageError, match="did you mean 'Digits'"):
        load_task(DIGITS[:-1])


def test_hits() -> None:
    assert hits(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1])).tolist() == [[1.0], [0.0]]


def test_r_squared_is_an_aggregate_of_statistics() -> None:
    value = np.array([[1.0], [-1.0], [2.0]])
    statistics = TokenSentences().score({"value": value + 0.5}, {"value": value})
    assert statistics.tolist() == [[0.25, 1.0], [0.25, 1.0], [0.25, 4.0]]
    assert TokenSentences().aggregate(statistics) == pytest.approx(1 - 0.75 / 6)


def test_examples_have_the_declared_shapes() -> None:
    made = TokenSentences().example(np.random.default_rng(0), batch=3, sequence=7)
    assert {name: (array.dtype.name, array.shape) for name, array in made.items()} == {
        "tokens": ("int64", (3, 7)),
        "mask": ("float32", (3, 7)),
    }
    assert TokenSentences().example(np.random.default_rng(0))["tokens"].shape == (1, 4)


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_outside_the_classes(label: int) -> None:
    task = type("Made", (RelabelledDigits,), {"label": label})()
    with pytest.raises(StageError, match=rf"\('train'\) .*the 10 classes .*\[{label}\]"):
        task_check.check_task(task)


def test_targets_that_are_not_finite() -> None:
    part = rows("train", 0, 9)
    value = np.asarray(part.targets["value"]).copy()
    value[4] = np.nan
    with pytest.raises(StageError, match="'value' holds NaN"):
        task_check.check_task(broken(train=InMemory(part.inputs, {"value": value})))


def test_targets_that_are_not_there() -> None:
    with pytest.raises(StageError, match=r"'validation'\) .*'value'"):
        task_check.check_task(broken(validation=InMemory(rows("validation", 0, 9).inputs, {})))


def test_an_empty_split() -> None:
    class EmptySentences(TokenSentences):
        def split(self, name: SplitName) -> Split:
            return rows("validation", 0, 0) if name == "validation" else super().split(name)

    with pytest.raises(StageError, match=r"EmptySentences\.split\('validation'\)"):
        task_check.check_task(EmptySentences())


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_split_that_overlaps_test(split: SplitName) -> None:
    own, test = rows(split, 0, 100), rows("test", 5, 8)
    mixed = {name: np.concatenate([own.inputs[name], test.inputs[name]]) for name in own.inputs}
    targets = {"value": np.concatenate([own.targets["value"], test.targets["value"]])}
    with pytest.raises(StageError, match=rf"3 of 512 .*{split} split"):
        task_check.check_task(broken(**{split: InMemory(mixed, targets)}))


def test_inputs_of_the_wrong_dtype() -> None:
    part = rows("train", 0, 9)
    inputs = {**part.inputs, "mask": np.asarray(part.inputs["mask"], np.float64)}
    with pytest.raises(StageError, match=r"'mask' as float64 \(9, 16\)"):
        task_check.check_task(broken(train=InMemory(inputs, part.targets)))


def test_inputs_beyond_the_promised_range() -> None:
    part = rows("train", 0, 9)
    inputs: Arrays = {name: np.concatenate([array, array], 1) for name, array in part.inputs.items()}
    with pytest.raises(StageError, match=r"\(9, 32\)"):
        task_check.check_task(broken(train=InMemory(inputs, part.targets)))


def test_inputs_that_are_not_declared() -> None:
    part = rows("test", 0, 9)
    with pytest.raises(StageError, match=r"inputs \['tokens'\], "):
        task_check.check_task(broken(test=InMemory({"tokens": part.inputs["tokens"]}, part.targets)))


def test_an_augmentation_that_changes_the_dtype() -> None:
    class Doubles(TokenSentences):
        def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
            return {**inputs, "mask": np.asarray(inputs["mask"], np.float64)}

    with pytest.raises(StageError, match="'mask' as float64"):
        task_check.check_task(Doubles())


def with_attributes(**attributes: Any) -> TokenSentences:
    """Sentences with a mistake in what its class declares."""
    made = type("Made", (TokenSentences,), attributes)()
    assert isinstance(made, TokenSentences)
    return made


@pytest.mark.parametrize("rows", [[True, True], np.ones(3, bool), np.zeros(3), "all"])
def test_a_subset_that_does_not_mark_the_test_samples(rows: Any) -> None:
    with pytest.raises(StageError, match=r"mark_subsets\(\) .*'long'.*two of them"):
        task_check.check_task(with_attributes(mark_subsets=lambda self: {"long": rows}))


def test_a_subset_of_one_sample_has_no_bounds() -> None:
    one = np.arange(len(TokenSentences().split("test"))) == 0
    with pytest.raises(StageError, match="two of them"):
        task_check.check_task(with_attributes(mark_subsets=lambda self: {"long": one}))
    task_check.check_task(with_attributes(mark_subsets=lambda self: {"long": ~one}))


def test_an_axis_without_a_range() -> None:
    renamed = {**TokenSentences.inputs, "mask": Tensor("float32", ("batch", "sequense"))}
    with pytest.raises(StageError, match=r"\['mask'\] .*'sequense' .*'sequence'\?"):
        task_check.check_task(with_attributes(inputs=renamed))
    answers = {"value": Output(("batch", "answers"), kind="values", target="value")}
    with pytest.raises(StageError, match=r"\['value'\] .*'answers' .*`ranges`"):
        task_check.check_task(with_attributes(outputs=answers))


@pytest.mark.parametrize("promised", [(8, 4), (0, 0), (-1, 4), (4,), (), 4, (1.0, 4.0), "14"])
def test_ranges_that_are_none(promised: Any) -> None:
    with pytest.raises(StageError, match=r"Made\.ranges\['sequence'\]"):
        task_check.check_task(with_attributes(ranges={"batch": (1, 64), "sequence": promised}))


def test_an_empty_batch_is_no_promise_but_an_empty_cache_is() -> None:
    task_declared.check_range(with_attributes(ranges={"cache": (0, 16)}), "cache")
    with pytest.raises(StageError, match="1 <= smallest"):
        task_check.check_task(with_attributes(ranges={**TokenSentences.ranges, "batch": (0, 16)}))


@pytest.mark.parametrize("attribute", ["inputs", "outputs"])
@pytest.mark.parametrize("declared", [{}, None, ["tokens"], {"tokens": ("batch", 3)}])
def test_inputs_and_outputs_that_say_nothing(attribute: str, declared: Any) -> None:
    kind = {"inputs": "Tensor", "outputs": "Output"}[attribute]
    with pytest.raises(StageError, match=rf"Made\.{attribute} .*attar\.{kind}, got"):
        task_check.check_task(with_attributes(**{attribute: declared}))


@pytest.mark.parametrize("attribute", ["ranges", "preprocess"])
def test_what_is_no_dictionary(attribute: str) -> None:
    with pytest.raises(StageError, match=rf"Made\.{attribute} .*got \[\]"):
        task_check.check_task(with_attributes(**{attribute: []}))


@pytest.mark.parametrize("axes", [4, ("batch", 4.0), ("sequence", "batch"), (), ["batch"]])
def test_axes_that_are_none(axes: Any) -> None:
    with pytest.raises(StageError, match=r"Made\.inputs\['mask'\] .*tuple"):
        task_check.check_task(with_attributes(inputs={"mask": Tensor("float32", axes)}))


def test_a_kind_that_there_is_not() -> None:
    output = Output(("batch", 1), kind="valeus", target="value")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(StageError, match=r"\['value'\] .*'valeus'.*'values'\?"):
        task_check.check_task(with_attributes(outputs={"value": output}))


@pytest.mark.parametrize(("classes", "told"), [("abc", "must be a list of names"), (("a", "b"), "Made.classes has 2 names")])
def test_classes_that_do_not_fit(classes: Any, told: str) -> None:
    with pytest.raises(StageError, match=told):
        task_check.check_task(with_attributes(classes=classes, outputs={"logits": Output(("batch", 3))}))


def test_an_aggregate_that_is_no_number() -> None:
    with pytest.raises(StageError, match=r"Made\.aggregate .*one number"):
        task_check.check_task(with_attributes(aggregate=lambda self, statistics: statistics.mean(0)))


def test_a_dtype_that_numpy_does_not_know() -> None:
    with pytest.raises(StageError, match=r"Made\.inputs\['mask'\] .*'float23'"):
        task_check.check_task(with_attributes(inputs={"mask": Tensor("float23", ("batch", "sequence"))}))


@pytest.mark.parametrize("listed", ["points.npz", Path("points.npz"), None, [1], {"points.npz": 1}])
def test_data_that_are_no_list(listed: Any) -> None:
    with pytest.raises(StageError, match=r"Made\.data\(\)"):
        task_check.check_task(with_attributes(data=lambda self: listed))


@pytest.mark.parametrize(("value", "split"), [(-1, "train"), (32, "test")])
def test_integers_outside_what_is_declared(value: int, split: SplitName) -> None:
    """In a batch that is not the first, too."""
    whole = rows(split, 0, 500)
    tokens = np.tile(whole.inputs["tokens"], (9, 1))
    tokens[4200, 3] = value
    inputs = {"tokens": tokens, "mask": np.tile(whole.inputs["mask"], (9, 1))}
    task = broken(**{split: InMemory(inputs, {"value": np.tile(whole.targets["value"], (9, 1))})})
    with pytest.raises(StageError, match=rf"\('{split}'\) gives 'tokens' .*{value}, .*high = 32"):
        task_check.check_task(task)


def test_an_augmentation_that_makes_other_integers() -> None:
    def augment(self: TokenSentences, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        return {**inputs, "tokens": np.asarray(inputs["tokens"], np.int64) + generator.integers(1, 32)}

    with pytest.raises(StageError, match=r"Made\.augment .*'tokens' .*outside"):
        task_check.check_task(with_attributes(augment=augment))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (np.zeros(64), r"float64 \[64\]"),
        (np.zeros((64, 0)), r"float64 \[64, 0\]"),
        (np.zeros((3, 1)), r"float64 \[3, 1\]"),
        (np.zeros((64, 1), bool), r"bool \[64, 1\]"),
        (np.zeros((64, 1), int), r"int64 \[64, 1\]"),
        (0.5, "0.5"),
        (None, "None"),
    ],
)
def test_scores_that_are_no_statistics(made: Any, told: str) -> None:
    with pytest.raises(StageError, match=rf"Made\.score .*\[64, k\], got {told};"):
        task_check.check_task(with_attributes(score=lambda self, outputs, targets: made))


def test_a_score_that_cannot_be_computed() -> None:
    def score(self: TokenSentences, outputs: Arrays, targets: Arrays) -> Array:
        return outputs["values"]

    with pytest.raises(StageError, match=r"Made\.score .*KeyError: 'values'"):
        task_check.check_task(with_attributes(score=score))


def test_a_score_of_outputs_whose_size_only_a_network_knows_is_not_asked() -> None:
    def score(self: TokenSentences, outputs: Arrays, targets: Arrays) -> Array:
        raise AssertionError("asked")

    def answer(self: TokenSentences, graphs: Mapping[str, Any], inputs: Arrays) -> dict[str, Array]:
        raise AssertionError("asked")

    outputs = {"value": Output(("batch", "boxes"), kind="values", target="value")}
    task_check.check_task(with_attributes(score=score, outputs=outputs, ranges={**TokenSentences.ranges, "boxes": (0, 9)}))
    task_check.check_task(with_attributes(score=score, answer=answer))


def test_a_split_that_is_drawn_anew() -> None:
    drawn = np.random.default_rng(0)

    class DrawnSentences(TokenSentences):
        def split(self, name: SplitName) -> Split:
            whole = super().split(name).take(drawn.permutation(200))
            return InMemory(whole.inputs, whole.targets)

    with pytest.raises(StageError, match=r"DrawnSentences\.split\('train'\) .*again"):
        task_check.check_task(DrawnSentences())


def noise(generator: np.random.Generator) -> npt.NDArray[np.float32]:
    return generator.standard_normal((512, 16)).astype(np.float32)


def test_views_that_the_generator_does_not_decide() -> None:
    own = np.random.default_rng(0)
    drawn = with_attributes(augment=lambda self, inputs, generator: {**inputs, "mask": noise(own)})
    with pytest.raises(StageError, match=r"Made\.augment .*equal generators"):
        task_check.check_task(drawn)
    fixed = with_attributes(augment=lambda self, inputs, generator: {**inputs, "mask": noise(np.random.default_rng(0))})
    with pytest.raises(StageError, match=r"Made\.augment .*different generators"):
        task_check.check_task(fixed)
    task_check.check_task(
        with_attributes(augment=lambda self, inputs, generator: inputs)
    )  # no augmentation is none that ignores it


def test_options_that_a_network_does_not_take() -> None:
    with pytest.raises(StageError, match=r"'widht'.*'width'\?"):
        build_network(RESIDUAL, {"widht": 8})


def test_options_that_a_network_cannot_use() -> None:
    with pytest.raises(StageError, match="cannot be made with"):
        build_network(RESIDUAL, {"width": -1})


def test_what_is_no_network() -> None:
    with pytest.raises(StageError, match="returned dict"):
        build_network("tests.models.test_task:no_network", {})
    with pytest.raises(StageError, match=r"torch.nn.Module"):
        build_network("tests.models.test_task:RESIDUAL", {})


def no_network() -> dict[str, int]:
    return {}


class TwinNetwork(nn.Module):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image, image


def test_a_network_with_the_wrong_number_of_outputs() -> None:
    with pytest.raises(StageError, match=r"2 outputs, .*1: \['logits'\]"):
        check_network(TwinNetwork(), Digits())


def test_a_network_with_outputs_of_the_wrong_shape() -> None:
    with pytest.raises(StageError, match=r"'logits' has shape \(2, 7\), its task promises \(2, 10\)"):
        check_network(build_network(RESIDUAL, {"classes": 7}), Digits())


def test_a_network_for_other_inputs() -> None:
    with pytest.raises(StageError, match="inputs of TokenSentences"):
        check_network(build_network(RESIDUAL, {}), TokenSentences())


@pytest.mark.parametrize("name", ["residual:residual", "mobile:mobile"])
@pytest.mark.parametrize("stem", [1, 2])
def test_the_shipped_networks_fit_their_tasks(name: str, stem: int) -> None:
    check_network(build_network(f"attar.models.networks.{name}", {"width": 4, "stem": stem}), Digits())


def test_padding_does_not_change_what_a_reader_answers() -> None:
    """The mask is what makes the sequence axis dynamic."""
    seen = views.make_chunk(TokenSentences(), TokenSentences().split("test"), 0)
    tokens, mask = (torch.from_numpy(np.asarray(seen.inputs[name])) for name in ("tokens", "mask"))
    short = mask.sum(1) <= 8
    module = teacher().eval()
    torch.testing.assert_close(module(tokens[short], mask[short]), module(tokens[short, :8], mask[short, :8]))


def test_outputs_keep_their_declared_kind() -> None:
    assert Output(("batch", 10)).kind == "logits"
    assert Tensor("float32", ("batch", 1, 8, 8)).shape({"batch": 5}) == (5, 1, 8, 8)


class Transfer(TokenSentences):
    """Sentences with some without labels; a test replaces them."""

    transfer = True
    unlabelled: ClassVar[InMemory]

    def split(self, name: SplitName) -> Split:
        return self.unlabelled if name == "transfer" else super().split(name)


def transfer(unlabelled: InMemory) -> Task:
    made = type("Made", (Transfer,), {"unlabelled": unlabelled})()
    assert isinstance(made, Task)
    return made


def test_a_transfer_split_has_inputs_alone() -> None:
    some = TokenSentences().example(np.random.default_rng(0), batch=20, sequence=16)
    task_check.check_task(transfer(InMemory(some, {})))
    with pytest.raises(StageError, match=r"\('transfer'\) .*\['value'\]"):
        task_check.check_task(transfer(InMemory(some, {"value": np.zeros((20, 1), np.float32)})))


def test_a_transfer_split_is_looked_at_like_the_others() -> None:
    with pytest.raises(StageError, match=r"\('transfer'\) is empty"):
        task_check.check_task(transfer(InMemory(rows("train", 0, 0).inputs, {})))
    with pytest.raises(StageError, match="the transfer split"):
        task_check.check_task(transfer(InMemory(rows("test", 0, 9).inputs, {})))


def test_without_saying_so_there_is_no_transfer_split() -> None:
    assert task_check.list_splits(TokenSentences()) == task_check.SPLITS
    assert task_check.list_splits(Transfer()) == (*task_check.SPLITS, "transfer")
