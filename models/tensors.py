"""The description of a tensor, and the function that decides whether an array fits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attar.pipeline.core.errors import suggest_name

Array = npt.NDArray[np.generic]
Arrays = Mapping[str, Array]
"""Named tensors; the first axis of each is the batch."""
Axes = tuple[int | str, ...]
"""The axes of a tensor: a size where it is fixed, a name where it is dynamic."""
AxisRanges = Mapping[str, tuple[int, int]]
"""The smallest and the largest size of each dynamic axis. An axis without a range has any size."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor: its dtype (a numpy name) and its axes."""

    dtype: str
    axes: Axes
    high: int | None = 2
    """Integers lie in ``[0, high)``, and ``Task.example`` draws them from there. None: not
    known."""
    pad: int | None = None
    """The value that fills up a sample that is shorter than others along a dynamic axis, such as a
    tokenizer's padding. A sample's end may be cut off where it has this value. None: never."""
    name: str = ""
    """Empty if a mapping names the tensor."""

    @property
    def is_integer(self) -> bool:
        return np.issubdtype(np.dtype(self.dtype), np.integer)

    def __str__(self) -> str:
        return f"{self.dtype} {format_axes(self.axes)}"

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape for these sizes of the dynamic axes."""
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in self.axes)


def find_mismatch(
    spec: TensorSpec,
    shape: Sequence[int],
    dtype: np.dtype[np.generic] | None = None,
    ranges: AxisRanges | None = None,
    sizes: dict[str, int] | None = None,
) -> str | None:
    """Return why an array of this shape does not fit, or None if it fits.

    The dtype is compared if it is given; it must have this machine's byte order. ``sizes`` collects
    the sizes of the dynamic axes: pass one dict for all tensors that must agree in them.
    """
    wrong_dtype = dtype is not None and (dtype.name != spec.dtype or not dtype.isnative)
    if wrong_dtype or not has_fixed_sizes(spec.axes, shape):
        return f"must be {spec}, got {format_array(shape, dtype)}"
    for axis, size in zip(spec.axes, shape, strict=True):
        if isinstance(axis, int):
            continue
        if sizes is not None and sizes.setdefault(axis, size) != size:
            return f"must be {spec} with {axis} {sizes[axis]}, got {format_array(shape, dtype)}"
        low, high = (ranges or {}).get(axis, (size, size))
        if not low <= size <= high:
            return f"has {axis} = {size}, must be {low} to {high}"
    return None


def find_input_mismatch(
    specs: Sequence[TensorSpec], inputs: Arrays, ranges: AxisRanges | None = None
) -> str | None:
    """Return why named arrays are not the inputs of a graph, or None if they are."""
    for spec in specs:
        if spec.name not in inputs:
            given = ", ".join(inputs) or "none"
            return f"the graph wants an input {spec.name!r} ({spec}) and got {given}"
        array = np.asarray(inputs[spec.name])
        if mismatch := find_mismatch(spec, array.shape, array.dtype, ranges):
            return f"input {spec.name!r} {mismatch}"
    names = [spec.name for spec in specs]
    unknown = sorted(inputs.keys() - set(names))
    if not unknown:
        return None
    return f"the graph has no input {unknown[0]!r}: {suggest_name(unknown[0], names)}"


def has_foreign_byte_order(inputs: Arrays) -> bool:
    """Whether an array has the other byte order. No runtime checks that: it would misread the
    array."""
    return any(not np.asarray(array).dtype.isnative for array in inputs.values())


def has_fixed_sizes(axes: Sequence[int | str], shape: Sequence[int | str]) -> bool:
    """Whether a shape has the number of axes, and the fixed sizes, of these axes."""
    if len(axes) != len(shape):
        return False
    return all(
        not isinstance(axis, int) or axis == size for axis, size in zip(axes, shape, strict=True)
    )


def format_axes(axes: Sequence[int | str]) -> str:
    """Return the axes as a message writes them, such as ``[batch, 3]``."""
    return f"[{', '.join(map(str, axes))}]"


def describe_array(array: Array) -> str:
    """Return an array's dtype and shape as a message writes them; for objects the type of the first
    one."""
    if array.dtype == object and array.size:
        return f"{type(array.flat[0]).__name__} objects {format_axes(array.shape)}"
    return format_array(array.shape, array.dtype)


def format_array(shape: Sequence[int], dtype: np.dtype[np.generic] | None) -> str:
    """Return an array's dtype and shape as a message writes them, such as ``float32 [2, 3]``."""
    if dtype is None:
        return format_axes(shape)
    order = "" if dtype.isnative else " in the other byte order"
    kind = str(dtype) if dtype.kind in "SU" else dtype.name  # str96 says less than <U3
    return f"{kind} {format_axes(shape)}{order}"
