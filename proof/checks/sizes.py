"""Sizes: whether a hop gives sound answers at every size that its task promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from attar.engines.parity import Sizes, list_dynamic_axes, list_proven_sizes
from attar.models.checks.tokens import find_malformed_row
from attar.models.generation import find_decoding
from attar.models.task import CLASSIFYING, Array, Arrays, Kind, Output, Predict, Task
from attar.models.tensors import has_fixed_sizes
from attar.pipeline.core.errors import StageError
from attar.proof.estimates import metrics
from attar.proof.ledger.ledger import SizesCheck

FEW = 8
"""Samples that are asked for alone, and at least at every size: one answer to all is constant."""
SAME = 1e-3  # of the largest magnitude: what another order of the same sums may change
TINY = 1e-30
LEAST, STEP = 0.98, 0.1
"""The least CORR of samples' answers in a batch with those alone, and how much of their magnitude
they may differ by. Rounding may flip some steps of int8; it does not mix samples."""


def examine_sizes(
    task: Task, predict: Predict, take_samples: Callable[[int, int], Arrays]
) -> SizesCheck:
    """Return whether the answers are sound at every size that the task promises.

    ``take_samples(samples, call)`` gives samples of the test split, others for each call. It is
    used if the batch is the only dynamic axis. There are no samples of other sizes; the task's
    random examples stand in for them.
    """
    has_only_batch = set(list_dynamic_axes(task)) == {"batch"}
    sizes, faults = list_proven_sizes(task), []
    for number, size in enumerate(sizes):
        calls = -(-FEW // size.get("batch", 1))  # that give at least so many samples
        inputs = [
            take_samples(size["batch"], call)
            if has_only_batch
            else task.example(np.random.default_rng((1, number, call)), **size)
            for call in range(calls)
        ]
        if fault := find_fault(task, predict, inputs, size):
            place = ", ".join(f"{axis} {length}" for axis, length in size.items())
            faults.append(f"at {place}: {fault}")
    return SizesCheck(len(sizes), tuple(faults))


def find_fault(task: Task, predict: Predict, inputs: Sequence[Arrays], sizes: Sizes) -> str | None:
    """What is wrong with the answers to these inputs of one size; None if nothing is."""
    try:
        answers = [predict(each) for each in inputs]
        again = predict(inputs[0])
    except StageError as error:
        return str(error)
    for name, output in task.outputs.items():
        wrong = next(
            filter(None, (find_unsound(output, answer[name], sizes) for answer in answers)), None
        )
        wrong = wrong or find_malformed(task, inputs, [answer[name] for answer in answers])
        wrong = wrong or find_constant(np.concatenate([answer[name] for answer in answers]))
        wrong = wrong or find_unlike(
            output, answers[0][name], again[name], "a second answer to the same inputs"
        )
        if wrong:
            return f"{name!r} {wrong}"
    return depends_on_batch(task, predict, inputs[0], answers[0], sizes)


def find_malformed(task: Task, inputs: Sequence[Arrays], answers: Sequence[Array]) -> str | None:
    """What is wrong with the form of generated tokens; None for a task that does not generate."""
    decoding = find_decoding(task)
    if decoding is None:
        return None
    for one, tokens in zip(inputs, answers, strict=True):
        rows, limits = np.asarray(tokens, np.int64), decoding.limit_lengths(one)
        if wrong := find_malformed_row(rows, limits, decoding.vocabulary):
            return wrong
    return None


def find_constant(answers: Array) -> str | None:
    return (
        f"is the same for {len(answers)} samples" if bool((answers == answers[0]).all()) else None
    )


def find_unsound(output: Output, answer: Array, sizes: Sizes) -> str | None:
    wanted = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in output.axes]
    if not has_fixed_sizes(wanted, answer.shape):
        return f"has shape {list(answer.shape)}, expected {wanted}".replace("'", "")
    if not np.isfinite(np.asarray(answer, np.float64)).all():
        return "is not finite"
    return None


def find_unlike(output: Output, expected: Array, got: Array, what: str) -> str | None:
    if expected.shape != got.shape or not np.isfinite(np.asarray(got, np.float64)).all():
        return f"of {what} has another shape or is not finite"
    if output.kind == "tokens":
        others = count_other_sequences(expected, got)
        return f"of {what} has other tokens for {others} of {len(got)} samples" if others else None
    apart = compute_difference(expected, got)
    return f"of {what} differs by {apart:.2g} of its magnitude" if apart > SAME else None


def count_other_sequences(expected: Array, got: Array) -> int:
    """Return how many rows differ: of tokens, a number that is nearly the same is another word."""
    return int((np.asarray(expected) != np.asarray(got)).any(1).sum())


def compute_difference(expected: Array, got: Array) -> float:
    """The largest ``|got - expected|`` over the largest ``|expected|``."""
    a, b = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    return float(np.abs(a - b).max(initial=0) / max(TINY, float(np.abs(a).max(initial=0))))


def depends_on_batch(
    task: Task, predict: Predict, inputs: Arrays, answers: Arrays, sizes: Sizes
) -> str | None:
    """Return how the answer to a sample depends on the others in its batch, or None.

    It does so if a network uses batch statistics, as in training.
    """
    count = min(FEW, sizes.get("batch", 1))
    if count < 2 or task.ranges["batch"][0] > 1:
        return None
    try:
        rows = [
            predict({name: array[row : row + 1] for name, array in inputs.items()})
            for row in range(count)
        ]
    except StageError as error:
        return f"one sample alone: {error}"
    for name, output in task.outputs.items():
        together, alone = answers[name][:count], np.concatenate([row[name] for row in rows])
        if together.shape != alone.shape or not np.isfinite(np.asarray(alone, np.float64)).all():
            return f"{name!r} of one sample alone has another shape or is not finite"
        if output.kind == "tokens":
            # The rounding of one activation may tip a token of a random sample, seldom two.
            if count_other_sequences(alone, together) > count // 4:
                return f"{name!r} depends on the other samples in the batch: many have other tokens"
            continue
        # of one network's few: entry by entry, not pair by pair, or by what is usual of a label
        kind: Kind = output.kind if output.kind in CLASSIFYING else "values"
        apart, corr = (
            compute_difference(alone, together),
            metrics.compare_outputs(kind, alone, together).numbers["correlation"],
        )
        if apart > STEP or (apart > SAME and corr is not None and corr < LEAST):
            return (
                f"{name!r} depends on the other samples in the batch: CORR {corr:.3f} with the "
                f"answers to each alone, it differs by {apart:.2g} of their magnitude"
            )
    return None
