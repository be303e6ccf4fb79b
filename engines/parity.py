"""Two forms of a network give the same answers, at every size that its task promises."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from attar.models.generation import Decoding, find_decoding, follow
from attar.models.task import Array, Arrays, Predict, Predictor, Task
from attar.pipeline.core.errors import StageError

PATH_LENGTH = 6
"""Tokens of the random paths that an output of tokens is compared along."""
Sizes = Mapping[str, int]
"""The size of every dynamic axis."""


def list_dynamic_axes(task: Task) -> dict[str, tuple[int, int]]:
    """Return the smallest and largest promised size of each dynamic axis, the batch first."""
    names = [
        axis for tensor in task.inputs.values() for axis in tensor.axes if isinstance(axis, str)
    ]
    for axis in names:
        if axis not in task.ranges:
            raise StageError(
                f"{type(task).__name__} has an axis {axis!r} but no range for it: add it to "
                "`ranges`"
            )
    return {axis: task.ranges[axis] for axis in dict.fromkeys(names)}


def choose_traced_sizes(task: Task) -> dict[str, int]:
    """Return the sizes that an exporter traces.

    They are two samples, and for other axes a size inside the range that no other axis has.
    Exporters treat sizes 0 and 1 as constants, and equal sizes as one axis.
    """
    sizes: dict[str, int] = {}
    for axis, (low, high) in list_dynamic_axes(task).items():
        middle = 2 if axis == "batch" else (low + high) // 2
        free = [size for size in range(max(low, 2), high + 1) if size not in sizes.values()]
        sizes[axis] = min(
            free, key=lambda size: abs(size - middle), default=2 if axis == "batch" else high
        )
    return sizes


def list_proven_sizes(task: Task) -> list[dict[str, int]]:
    """Return the sizes at which parity is proven.

    Each axis has its smallest, an untraced and its largest size; then all have their smallest, and
    all their largest.
    """
    ranges, traced = list_dynamic_axes(task), choose_traced_sizes(task)
    found = [
        traced | {axis: size}
        for axis, (low, high) in ranges.items()
        for size in (low, choose_untraced_size(low, high, traced[axis]), high)
    ]
    found += [{axis: ranges[axis][end] for axis in ranges} for end in (0, 1)]
    return [dict(sizes) for sizes in dict.fromkeys(tuple(sizes.items()) for sizes in found)]


def choose_untraced_size(low: int, high: int, traced: int) -> int:
    """Return a size inside the range that was not traced, or the smallest if there is none."""
    inside = [size for size in range(low + 1, high) if size != traced]
    return min(inside, key=lambda size: (size < traced, size), default=low)


def measure_largest_difference(
    task: Task, expected: Predict, got: Predict, tolerance: float, hint: str
) -> float:
    """Return the largest ``|expected - got|`` over random inputs of all proven sizes.

    Where the task has an output of tokens, every other source ends with padding. The difference has
    one digit, because it is part of a digest. Allowed is ``tolerance * max(1, largest |expected|)``
    for each output and size: absolute for outputs of ordinary magnitude, relative for larger ones.
    Raises StageError, with the sizes and the ``hint``, beyond that, for another shape, and for an
    answer that is not finite.
    """
    differences = [0.0]
    for number, sizes in enumerate(list_proven_sizes(task)):
        inputs = draw_inputs(task, np.random.default_rng((0, number)), sizes)
        try:
            differences += compare_outputs(expected(inputs), got(inputs), tolerance)
        except StageError as error:
            at = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
            raise StageError(f"at {at}: {error}; {hint}") from error
    return float(f"{max(differences):.0e}")


def draw_inputs(task: Task, generator: np.random.Generator, sizes: Sizes) -> dict[str, Array]:
    """Return random inputs to prove an answer with, padded if the network generates tokens."""
    if find_decoding(task) is None:
        return task.example(generator, **sizes)
    return draw_padded_inputs(task, generator, sizes)


def draw_padded_inputs(
    task: Task, generator: np.random.Generator, sizes: Sizes
) -> dict[str, Array]:
    """Return random inputs. Every other sample ends with padding, where the task has some."""
    inputs = dict(task.example(generator, **sizes))
    for name, pad in list_paddings(task, inputs).items():
        inputs[name] = inputs[name].copy()  # a task may give some of its own samples
        inputs[name][1::2, -1] = pad
    return inputs


def list_paddings(task: Task, inputs: Arrays) -> dict[str, int]:
    """Return the padding of each input that may end with it."""
    return {
        name: tensor.pad
        for name, tensor in task.inputs.items()
        if tensor.pad is not None and len(tensor.axes) == 2 and inputs[name].shape[1] > 1
    }


def compare_outputs(expected: Arrays, got: Arrays, tolerance: float) -> list[float]:
    if expected.keys() != got.keys():
        raise StageError(f"the outputs are {', '.join(got)}, expected {', '.join(expected)}")
    return [measure_difference(name, expected[name], got[name], tolerance) for name in expected]


def measure_difference(name: str, expected: Array, got: Array, tolerance: float) -> float:
    """Return the largest absolute difference of one output, if it is allowed."""
    if expected.shape != got.shape:
        raise StageError(
            f"output {name!r} has shape {list(got.shape)}, expected {list(expected.shape)}"
        )
    a, b = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise StageError(f"output {name!r} is not finite")
    largest, allowed = (
        float(np.abs(a - b).max(initial=0)),
        tolerance * max(1.0, float(np.abs(a).max(initial=0))),
    )
    if largest > allowed:
        raise StageError(f"output {name!r} differs by {largest:.2g}, allowed {allowed:.2g}")
    return largest


def measure_predictor_difference(
    task: Task, expected: Predictor, got: Predictor, tolerance: float, hint: str
) -> float:
    """As ``measure_largest_difference``; of an output of tokens, along random paths.

    What is compared there are the logits. One that is nearly as large as the largest may become the
    largest, and the tokens after it are others.
    """
    decoding = find_decoding(task)
    if decoding is None:
        return measure_largest_difference(task, expected, got, tolerance, hint)
    sides = [
        partial(follow_random_path, predictor.graphs, decoding) for predictor in (expected, got)
    ]
    return measure_largest_difference(task, sides[0], sides[1], tolerance, hint)


def follow_random_path(
    graphs: Mapping[str, Predict], decoding: Decoding, inputs: Arrays
) -> dict[str, Array]:
    """Return the logits ``[N, T, size]`` along a path that only the inputs' shapes decide."""
    samples = len(next(iter(inputs.values())))
    length = min(PATH_LENGTH, decoding.longest)
    words = decoding.vocabulary
    path = np.random.default_rng(samples).integers(0, words.size, (samples, length))
    return {decoding.output: np.stack(list(follow(graphs, inputs, path, decoding)), 1)}
