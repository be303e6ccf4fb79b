"""Sizes: hops that answer well in the batches of the test split, and badly at some promised size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from attar.models.task import Array, Arrays, Output, Predict, Task
from attar.pipeline.core.errors import StageError
from attar.proof.checks.sizes import examine_sizes
from tests.support.proof.proof_parts import TEACHER, Points
from tests.support.tasks.sequences import LONGEST, Reversal, change_task, make_decoding
from tests.support.tasks.token_task import TokenSentences

Numbers = npt.NDArray[np.float32]
Logits = Callable[[Numbers], Array]


def rows(count: int, call: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(call).standard_normal((count, 2)).astype(np.float32)}


def good(x: Numbers) -> Numbers:
    return np.asarray(x @ TEACHER, np.float32)


def answering(logits: Logits) -> Predict:
    return lambda inputs: {"logits": logits(np.asarray(inputs["x"], np.float32))}


def faults(logits: Logits, task: Task | None = None) -> list[str]:
    found = examine_sizes(task or Points(), answering(logits), rows)
    assert found.tried == 3  # the smallest, one that was never traced, the largest
    return list(found.faults)


def test_sound_answers_have_no_fault() -> None:
    assert faults(good) == []


def test_one_row_for_every_batch() -> None:
    assert faults(lambda x: good(x[:1])) == [
        "at batch 3: 'logits' has shape [1, 3], expected [3, 3]",
        "at batch 8: 'logits' has shape [1, 3], expected [8, 3]",
    ]


def test_what_overflows_in_large_batches_only() -> None:
    assert faults(lambda x: good(x) * np.float32(np.inf if len(x) == 8 else 1)) == ["at batch 8: 'logits' is not finite"]


def test_a_constant_answer_to_many_samples() -> None:
    assert faults(lambda x: np.ones((len(x), 3), np.float32)) == [
        "at batch 1: 'logits' is the same for 8 samples",
        "at batch 3: 'logits' is the same for 9 samples",
        "at batch 8: 'logits' is the same for 8 samples",
    ]


def test_a_small_magnitude_hides_nothing() -> None:
    found = faults(lambda x: good((x - x.mean(0)) / (x.std(0) + 1e-3)) * np.float32(1e-5))
    assert all("'logits' depends on the other samples" in fault for fault in found[1:])
    assert len(found) == 3


def test_a_share_of_the_batch_s_mean_that_no_correlation_sees() -> None:
    """Alone a sample is its own mean: three quarters of the answer, and perfectly correlated."""
    found = faults(lambda x: good(x - np.float32(0.25) * x.mean(0)))
    assert "it differs by" in found[-1]


def test_batch_statistics_of_training_mode() -> None:
    """A sample alone has a variance of nothing; its answer is another than in a batch."""
    found = faults(lambda x: good((x - x.mean(0)) / (x.std(0) + 1e-3)))
    assert [fault.partition(":")[0] for fault in found] == ["at batch 1", "at batch 3", "at batch 8"]
    assert all("'logits' depends" in fault for fault in found[1:])


def test_dropout_that_is_active() -> None:
    generator = np.random.default_rng(0)
    found = faults(lambda x: good(x * (generator.random(x.shape) < 0.9)))
    assert any("a second answer" in fault for fault in found)


def test_an_error_at_one_size_is_a_fault_of_that_size() -> None:
    def refusing(x: Numbers) -> Numbers:
        if len(x) == 1:
            raise StageError("input 'x' must be float32 [2, 2], got float32 [1, 2]")
        return good(x)

    assert faults(refusing) == [
        "at batch 1: input 'x' must be float32 [2, 2], got float32 [1, 2]",
        "at batch 3: one sample alone: input 'x' must be float32 [2, 2], got float32 [1, 2]",
        "at batch 8: one sample alone: input 'x' must be float32 [2, 2], got float32 [1, 2]",
    ]


def test_one_step_of_int8_may_flip() -> None:
    def coarse(x: Numbers) -> Numbers:
        made = np.asarray(np.round(good(x) * 20) / 20, np.float32)
        made[0, 0] += np.float32(0.05) * (len(x) > 1)
        return made

    assert faults(coarse) == []


class Alone(Points):
    """A batch of two at least: nobody was promised an answer to one."""

    ranges = {"batch": (2, 8)}


def test_a_sample_is_not_asked_alone_where_one_is_not_promised() -> None:
    found = examine_sizes(Alone(), answering(lambda x: good(x - x.mean(0))), rows)
    assert found.faults == ()


@pytest.mark.parametrize("longest", [16, 8])
def test_every_size_of_other_axes_is_tried_on_random_examples(longest: int) -> None:
    def mean(inputs: Arrays) -> dict[str, Array]:
        tokens = np.asarray(inputs["tokens"], np.float32)
        broken = tokens.shape[1] > longest
        return {"value": np.full_like(tokens[:, :1], np.nan) if broken else tokens.mean(1, keepdims=True)}

    found = examine_sizes(TokenSentences(), mean, rows)
    assert found.tried > 3
    sizes = [int(fault.partition("sequence ")[2].partition(":")[0]) for fault in found.faults]
    assert all(size > longest for size in sizes)
    assert (16 in sizes) == (longest < 16)


WIDE = change_task(outputs={"words": Output(("batch", LONGEST), kind="tokens", size=8000)})


def say(inputs: Arrays, shift: int) -> dict[str, Array]:
    """Return the first token, among others of large numbers, and an end token."""
    tokens = np.zeros((len(inputs["source"]), LONGEST), np.int64)
    tokens[:, 0] = np.asarray(inputs["source"]).sum(1) + 5000 + shift
    tokens[:, 1] = 2
    return {"words": tokens}


def find_token_faults(predict: Predict) -> list[str]:
    return list(examine_sizes(WIDE, predict, rows).faults)


def test_the_next_token_by_number_is_another_word() -> None:
    assert find_token_faults(lambda inputs: say(inputs, 0)) == []
    in_batches = find_token_faults(lambda inputs: say(inputs, int(len(inputs["source"]) > 1)))
    assert any("batch 64" in fault for fault in in_batches)
    assert all("depends on the other samples" in fault for fault in in_batches)
    calls = iter(range(10_000))
    drifting = find_token_faults(lambda inputs: say(inputs, next(calls)))
    assert drifting
    assert all("a second answer" in fault for fault in drifting)


@pytest.mark.parametrize("more", [0, 1])
def test_a_sequence_that_is_longer_than_its_source_allows(more: int) -> None:
    task, decoding = Reversal(), make_decoding()

    def endless(inputs: Arrays) -> dict[str, Array]:
        """One token again and again, another for each sample, up to the limit or one further."""
        limits = np.minimum(decoding.limit_lengths(inputs) + more, decoding.longest)
        first = 3 + np.asarray(inputs["source"], np.int64).sum(1) % 4
        return {"words": np.where(np.arange(decoding.longest) < limits[:, None], first[:, None], 0)}

    found = examine_sizes(task, endless, rows)
    assert any("more tokens than its source allows" in fault for fault in found.faults) == bool(more)
    assert more or found.faults == ()
