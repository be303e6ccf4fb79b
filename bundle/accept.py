"""Accept: whether a call has the inputs that a bundle takes."""

from __future__ import annotations

from attar.bundle.manifest import Manifest
from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import AttarError, suggest_name


def check_inputs(manifest: Manifest, inputs: Arrays) -> None:
    """Raises AttarError for a name, dtype, size or integer that the bundle does not take."""
    for axis, size in read_dynamic_sizes(manifest, inputs).items():
        low, high = manifest.ranges[axis]
        if not low <= size <= high:
            raise AttarError(
                f"{manifest.name}: {axis} is {size}, promised and proven are {low} to {high}; send fewer at once"
            )
    for name, tensor in manifest.inputs.items():
        if (wrong := find_outside(inputs[name], tensor.high)) is not None:
            raise AttarError(
                f"{manifest.name}: {name!r} has the value {wrong}, values lie from 0 to {(tensor.high or 0) - 1}"
            )


def find_outside(array: Array, high: int | None) -> int | None:
    """A value that is not in ``[0, high)``; None where all are, or any may be."""
    if high is None or not array.size:
        return None
    return next((int(value) for value in (array.min(), array.max()) if not 0 <= value < high), None)


def read_dynamic_sizes(manifest: Manifest, inputs: Arrays) -> dict[str, int]:
    """The sizes of the named axes. Raises AttarError for a name, dtype or shape that is not declared."""
    for name in inputs.keys() ^ manifest.inputs.keys():
        problem = (
            "is missing"
            if name in manifest.inputs
            else f"is not an input; {suggest_name(name, manifest.inputs)}"
        )
        raise AttarError(f"{manifest.name}: {name!r} {problem}")
    sizes: dict[str, int] = {}
    for name, tensor in manifest.inputs.items():
        array = inputs[name]
        wanted = [
            sizes.setdefault(a, n) if isinstance(a, str) else a
            for a, n in zip(tensor.axes, array.shape, strict=False)
        ]
        if (
            array.dtype != tensor.dtype
            or list(array.shape) != wanted
            or len(wanted) != len(tensor.axes)
        ):
            shape = ", ".join(map(str, tensor.axes))
            raise AttarError(
                f"{manifest.name}: {name!r} is {array.dtype}{list(array.shape)}, expected {tensor.dtype}[{shape}]"
            )
    return sizes
