"""Two forms of a network that generates are compared by their logits along random paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attar.engines.parity import (
    PATH_LENGTH,
    draw_padded_inputs,
    follow_random_path,
    list_proven_sizes,
    measure_predictor_difference,
)
from attar.models.generation import MODEL, START, STEP
from attar.models.task import Array, Arrays, Predictor
from attar.pipeline.core.errors import StageError
from tests.support.tasks.sequences import (
    SIZE,
    Reversal,
    change_task,
    draw_sources,
    make_decoding,
    make_history,
    make_table,
)

TASK, TABLE = Reversal(), make_table(0)
Change = Callable[[Arrays, dict[str, Array]], dict[str, Array]]


def refuse_to_generate(inputs: Arrays) -> dict[str, Array]:
    raise AssertionError("what is generated is not compared")


def make_predictor(change: Change | None = None) -> Predictor:
    """Return a model whose step's outputs are changed."""
    graphs = make_history(TABLE)
    step = graphs[STEP]

    def changed(inputs: Arrays) -> dict[str, Array]:
        outputs = step(inputs)
        return change(inputs, outputs) if change else outputs

    return Predictor({**graphs, STEP: changed, MODEL: refuse_to_generate})


def measure(change: Change | None, tolerance: float = 1e-3) -> float:
    expected, got = make_predictor(), make_predictor(change)
    return measure_predictor_difference(TASK, expected, got, tolerance, "try something else")


def add(amount: float, when: Callable[[Arrays], Any] = lambda inputs: True) -> Change:
    """Return a change of the logits where something holds of the step's inputs."""

    def change(inputs: Arrays, outputs: dict[str, Array]) -> dict[str, Array]:
        logits = np.asarray(outputs["logits"], np.float32)
        return {**outputs, "logits": logits + np.float32(amount) if when(inputs) else logits}

    return change


def test_the_same_network_does_not_differ() -> None:
    assert measure(None) == 0


def test_a_small_difference_is_measured() -> None:
    assert measure(add(1e-4)) == pytest.approx(1e-4, rel=0.5)


def test_a_large_difference_is_refused() -> None:
    with pytest.raises(StageError, match="try something else") as refused:
        measure(add(0.1))
    assert "'words'" in str(refused.value)


@pytest.mark.parametrize(
    ("when", "named"),
    [
        (lambda inputs: len(inputs["token"]) == 64, "batch 64"),
        (lambda inputs: len(inputs["token"]) == 1, "batch 1,"),
        (lambda inputs: int(inputs["place"][0]) == PATH_LENGTH - 1, "batch"),
    ],
)
def test_a_difference_at_one_size_or_place_is_found(when: Callable[[Arrays], bool], named: str) -> None:
    with pytest.raises(StageError) as refused:
        measure(add(0.1, when))
    assert named in str(refused.value)


def test_a_state_of_another_sample_is_found() -> None:
    def mix(inputs: Arrays, outputs: dict[str, Array]) -> dict[str, Array]:
        return {**outputs, "next_state_0": outputs["next_state_0"][::-1]}

    with pytest.raises(StageError, match="differs"):
        measure(mix)


def test_sources_with_padding_are_compared() -> None:
    def add_to_padded(inputs: Arrays) -> dict[str, Array]:
        outputs = graphs[START](inputs)
        ends = np.asarray(inputs["source"], np.int64)[:, -1] == 0
        return {**outputs, "memory_0": np.asarray(outputs["memory_0"], np.int64) + ends}

    def draw_whole(generator: np.random.Generator, batch: int, source: int = 1) -> dict[str, Array]:
        return {"source": generator.integers(3, SIZE, (batch, source))}

    graphs = make_history(TABLE)
    task = change_task(example=staticmethod(draw_whole))
    with pytest.raises(StageError, match="differs"):
        measure_predictor_difference(task, Predictor(graphs), Predictor({**graphs, START: add_to_padded}), 1e-3, "")


def test_samples_that_a_task_gives_as_examples_are_not_written_to() -> None:
    own = np.full((4, 5), 3)
    own.flags.writeable = False
    task = change_task(example=lambda task, generator, batch, source=1: {"source": own[:batch, :source]})
    made = draw_padded_inputs(task, np.random.default_rng(0), {"batch": 4, "source": 5})["source"]
    assert np.asarray(made)[:, -1].tolist() == [3, 0, 3, 0]


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(StageError, match="finite"):
        measure(add(np.inf))


def test_a_path_is_decided_by_the_number_of_samples() -> None:
    graphs, decoding = make_history(TABLE), make_decoding()
    inputs = {"source": draw_sources(0, [3, 5, 2])}
    first, second = (follow_random_path(graphs, decoding, inputs)["words"] for _ in range(2))
    assert first.shape == (3, PATH_LENGTH, SIZE)
    assert first.tobytes() == second.tobytes()


def test_every_promised_size_is_proven() -> None:
    sizes = list_proven_sizes(TASK)
    assert {entry["batch"] for entry in sizes} >= {1, 2, 64}
    assert {entry["source"] for entry in sizes} >= {1, 5}
