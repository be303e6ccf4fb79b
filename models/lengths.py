"""Lengths: how much of a padded sample is its own, so that a batch carries no more padding than its
longest sample needs.

Along an axis samples have lengths of their own when an input that declares its padding
(``Tensor.pad``) has it, and no output: what is answered position by position keeps its positions.
Other inputs that share it, such as a mask that is 0 where the tokens are padding, are cut alike. An
input that declares none, such as an image, may end in any value, and is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Arrays, Task, Tensor

Integers = npt.NDArray[np.int64]


def list_length_axes(task: Task) -> tuple[str, ...]:
    """The axes along which samples have lengths of their own."""
    padded = [tensor for tensor in task.inputs.values() if tensor.pad is not None]
    named = dict.fromkeys(
        axis for tensor in padded for axis in tensor.axes[1:] if isinstance(axis, str)
    )
    answered = {axis for output in task.outputs.values() for axis in output.axes}
    return tuple(axis for axis in named if axis not in answered)


def measure_samples(task: Task, inputs: Arrays) -> Integers:
    """Of each sample along each of ``list_length_axes(task)``, at least the smallest promised size:
    ``[N, axes]``."""
    return np.stack([measure_axis(task, inputs, axis) for axis in list_length_axes(task)], 1)


def measure_axis(task: Task, inputs: Arrays, axis: str) -> Integers:
    """The longest of what the inputs that share this axis hold, at least the smallest promised
    size: ``[N]``."""
    made: Integers = np.maximum(measure_lengths(task, inputs, axis), task.ranges[axis][0])
    return made


def measure_lengths(task: Task, inputs: Arrays, axis: str) -> Integers:
    """Return the longest of what the inputs that share this axis hold: ``[N]``."""
    found = [
        find_ends(inputs[name], tensor.pad or 0, place)
        for name, tensor, place in find_inputs(task, axis)
    ]
    made: Integers = np.stack(found).max(0)
    return made


def mask_padding(task: Task, inputs: Arrays, name: str) -> npt.NDArray[np.bool_]:
    """Return where, along its second axis, an input that declares its padding holds a sample's own:
    ``[N, size]``.

    That is all from the first to the last position which holds anything else than padding, in it or
    in another input of this axis that declares its padding or is a mask of zeros and ones. Others,
    such as ``position_ids``, do not tell.
    """
    tensor = task.inputs[name]
    axis = tensor.axes[1]
    sharing = [(name, tensor, 1)] if isinstance(axis, int) else list(find_inputs(task, axis))
    used = [
        find_used(inputs[other], each.pad or 0, place)
        for other, each, place in sharing
        if each.pad is not None or is_mask(inputs[other])
    ]
    own = np.any(used, axis=0)
    has_begun = np.maximum.accumulate(own, 1)
    goes_on = np.maximum.accumulate(own[:, ::-1], 1)[:, ::-1]
    made: npt.NDArray[np.bool_] = has_begun & goes_on
    return made


def is_mask(array: Array) -> bool:
    return bool(((array == 0) | (array == 1)).all())


def find_inputs(task: Task, axis: str) -> Iterator[tuple[str, Tensor, int]]:
    """The inputs that have this axis, and where."""
    for name, tensor in task.inputs.items():
        for place, each in enumerate(tensor.axes):
            if each == axis:
                yield name, tensor, place


def trim_inputs(task: Task, inputs: Arrays) -> dict[str, Array]:
    """The same samples without what is padding in all of them."""
    made = dict(inputs)
    for axis in list_length_axes(task):
        longest = int(measure_axis(task, inputs, axis).max())
        for name, _, place in find_inputs(task, axis):
            kept = (slice(None),) * place + (slice(longest),)
            made[name] = np.ascontiguousarray(made[name][kept])
    return made


def group_by_length(task: Task, inputs: Arrays, rows: Integers, size: int) -> list[Integers]:
    """These rows in groups of ``size``, those of like length together; of equal lengths in the
    order that they have."""
    ordered = rows[
        np.lexsort(measure_samples(task, inputs)[rows].T[::-1])
    ]  # by the first axis, then by the next
    return [ordered[start : start + size] for start in range(0, len(rows), size)]


def find_ends(array: Array, pad: int, place: int) -> Integers:
    """For each sample, one more than the last position along axis ``place`` that holds anything but
    padding: ``[N]``."""
    used = find_used(array, pad, place)  # (N, size)
    positions = np.where(used, np.arange(1, used.shape[1] + 1), 0)  # (N, size)
    made: Integers = positions.max(1, initial=0)
    return made


def find_used(array: Array, pad: int, place: int) -> npt.NDArray[np.bool_]:
    """Return where along axis ``place`` each sample holds anything but padding: ``[N, size]``."""
    others = tuple(axis for axis in range(1, array.ndim) if axis != place)
    made: npt.NDArray[np.bool_] = (array != pad).any(axis=others)
    return made
