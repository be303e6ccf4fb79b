"""Lengths: how much of a padded sample is content, so that a batch carries no more padding than its
longest sample needs.

Samples differ in length along an axis if an input that declares its padding (``Tensor.pad``) has
the axis and no output has it: an output for each position keeps its positions. Other inputs with
this axis, such as a mask that is 0 at the padding, are cut alike. An input that declares no
padding, such as an image, may end in any value and is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Arrays, Task, Tensor

Integers = npt.NDArray[np.int64]


def list_length_axes(task: Task) -> tuple[str, ...]:
    """Return the axes along which samples differ in length."""
    padded = [tensor for tensor in task.inputs.values() if tensor.pad is not None]
    named = dict.fromkeys(
        axis for tensor in padded for axis in tensor.axes[1:] if isinstance(axis, str)
    )
    answered = {axis for output in task.outputs.values() for axis in output.axes}
    return tuple(axis for axis in named if axis not in answered)


def list_padded_inputs(task: Task) -> dict[str, str]:
    """Return the axis of the tokens of each input that declares padding; of a fixed size its own
    name."""
    padded = {}
    for name, tensor in task.inputs.items():
        if tensor.pad is not None and len(tensor.axes) > 1:
            axis = tensor.axes[1]
            padded[name] = axis if isinstance(axis, str) else name
    return padded


def list_measured_inputs(task: Task) -> set[str]:
    """Return the inputs that declare padding, and those that are cut with them."""
    axes = set(list_length_axes(task))
    return {
        name
        for name, tensor in task.inputs.items()
        if tensor.pad is not None or axes & set(tensor.axes)
    }


def measure_samples(task: Task, inputs: Arrays) -> Integers:
    """Return each sample's length along each of ``list_length_axes(task)``, at least the smallest
    size of the axis: ``[N, axes]``."""
    return np.stack([measure_axis(task, inputs, axis) for axis in list_length_axes(task)], 1)


def measure_axis(task: Task, inputs: Arrays, axis: str) -> Integers:
    """Return each sample's length along an axis, at least the smallest size of the axis:
    ``[N]``."""
    lengths: Integers = np.maximum(measure_lengths(task, inputs, axis), task.ranges[axis][0])
    return lengths


def measure_lengths(task: Task, inputs: Arrays, axis: str) -> Integers:
    """Return the longest content among the inputs that have this axis: ``[N]``."""
    ends = [
        find_ends(inputs[name], tensor.pad or 0, place)
        for name, tensor, place in find_inputs(task, axis)
    ]
    longest: Integers = np.stack(ends).max(0)
    return longest


def mask_padding(task: Task, inputs: Arrays, name: str) -> npt.NDArray[np.bool_]:
    """Return where, along its second axis, an input that declares its padding holds content: ``[N,
    size]``.

    Content reaches from the first to the last position that holds anything but padding, in this
    input or in another one of the axis that declares its padding or to be a mask. Other inputs,
    such as ``position_ids``, say nothing about it.
    """
    tensor = task.inputs[name]
    axis = tensor.axes[1]
    sharing = [(name, tensor, 1)] if isinstance(axis, int) else list(find_inputs(task, axis))
    used = [
        find_used(inputs[other], spec.pad or 0, place)
        for other, spec, place in sharing
        if spec.pad is not None or is_mask(spec)
    ]
    own = np.any(used, axis=0)
    has_begun = np.maximum.accumulate(own, 1)
    goes_on = np.maximum.accumulate(own[:, ::-1], 1)[:, ::-1]
    content: npt.NDArray[np.bool_] = has_begun & goes_on
    return content


def is_mask(tensor: Tensor) -> bool:
    """Whether an input declares to hold nothing but zeros and ones: truth values, or integers below
    2. Numbers may happen to be such in one batch and not in another."""
    return tensor.dtype == "bool" or (tensor.is_integer and tensor.high == 2)


def find_inputs(task: Task, axis: str) -> Iterator[tuple[str, Tensor, int]]:
    """Yield the inputs that have this axis, with its position."""
    for name, tensor in task.inputs.items():
        for place, own_axis in enumerate(tensor.axes):
            if own_axis == axis:
                yield name, tensor, place


def trim_inputs(task: Task, inputs: Arrays) -> dict[str, Array]:
    """Return the same samples without the positions that are padding in all of them."""
    trimmed = dict(inputs)
    for axis in list_length_axes(task):
        longest = int(measure_axis(task, inputs, axis).max())
        for name, _, place in find_inputs(task, axis):
            part = (slice(None),) * place + (slice(longest),)
            trimmed[name] = np.ascontiguousarray(trimmed[name][part])
    return trimmed


def group_by_length(
    task: Task,
    inputs: Arrays,
    rows: Integers,
    size: int,
    labels: Integers | None = None,
    least: int = 1,
) -> list[Integers]:
    """Return these rows in groups of ``size``, sorted by length. Rows of equal length keep their
    order.

    ``labels`` ``[N]`` are the lengths of sequences to learn: then the longer of both sides counts,
    since a network reads both, each padded to the longest of its group. Such groups are equal in
    tokens, ``size`` is their mean size, and ``least`` the smallest. A loss is a mean over tokens,
    and a step that has few of them would count as much as one that has many (Ott et al. 2019,
    arXiv:1904.01038, batches by tokens).
    """
    sizes = measure_samples(task, inputs)
    if labels is not None:
        sizes = np.maximum(sizes.max(1), labels)[:, None]
    ordered = rows[np.lexsort(sizes[rows].T[::-1])]  # by the first axis, then by the next
    if labels is None:
        return [ordered[start : start + size] for start in range(0, len(rows), size)]
    return split_evenly(ordered, sizes[ordered, 0], -(-len(rows) // size), least)


def split_evenly(rows: Integers, weights: Integers, parts: int, least: int = 1) -> list[Integers]:
    """Return the rows in order, in so many parts of about equal weight.

    Each part has at least ``least`` rows, as passes and processes share the rows of a step, and at
    least a quarter of their mean number.
    """
    mean = len(rows) // parts
    least = min(max(least, mean // 4), mean)
    places = np.arange(1, parts)
    ends = np.searchsorted(np.cumsum(weights), weights.sum() * places / parts)
    ends = np.maximum.accumulate(ends - places * least) + places * least
    ends = np.clip(ends, places * least, len(rows) - (parts - places) * least)
    return np.split(rows, ends)


def measure_labels(task: Task, targets: Arrays) -> Integers | None:
    """Return the number of tokens of each label, ``[N]``; None if no label is a sequence."""
    for output in task.outputs.values():
        labels = targets.get(output.target) if output.target else None
        if output.kind == "tokens" and labels is not None:
            return find_ends(labels, output.pad, 1)
    return None


def find_ends(array: Array, pad: int, place: int) -> Integers:
    """Return, for each sample, the last position along axis ``place`` that holds anything but
    padding, plus 1: ``[N]``."""
    used = find_used(array, pad, place)  # (N, size)
    positions = np.where(used, np.arange(1, used.shape[1] + 1), 0)  # (N, size)
    ends: Integers = positions.max(1, initial=0)
    return ends


def find_used(array: Array, pad: int, place: int) -> npt.NDArray[np.bool_]:
    """Return where along axis ``place`` each sample holds anything but padding: ``[N, size]``."""
    others = tuple(axis for axis in range(1, array.ndim) if axis != place)
    used: npt.NDArray[np.bool_] = (array != pad).any(axis=others)
    return used
