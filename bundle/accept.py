"""Accept: whether a call has the inputs that a bundle takes."""

from __future__ import annotations

from attar.bundle.manifest import Manifest
from attar.models.task import Arrays
from attar.pipeline.core.errors import AttarError, did_you_mean


def accept(manifest: Manifest, inputs: Arrays) -> None:
    """Raises AttarError for a name, dtype or size that the bundle does not take."""
    for axis, size in dynamic_sizes(manifest, inputs).items():
        low, high = manifest.ranges[axis]
        if not low <= size <= high:
            raise AttarError(f"{manifest.name}: {axis} is {size}, promised and proven are {low} to {high}; send fewer at once")


def dynamic_sizes(manifest: Manifest, inputs: Arrays) -> dict[str, int]:
    """The sizes of the named axes. Raises AttarError for a name, dtype or shape that is not declared."""
    for name in inputs.keys() ^ manifest.inputs.keys():
        problem = "is missing" if name in manifest.inputs else f"is not an input; {did_you_mean(name, manifest.inputs)}"
        raise AttarError(f"{manifest.name}: {name!r} {problem}")
    sizes: dict[str, int] = {}
    for name, tensor in manifest.inputs.items():
        array = inputs[name]
        wanted = [sizes.setdefault(a, n) if isinstance(a, str) else a for a, n in zip(tensor.axes, array.shape, strict=False)]
        if array.dtype != tensor.dtype or list(array.shape) != wanted or len(wanted) != len(tensor.axes):
            shape = ", ".join(map(str, tensor.axes))
            raise AttarError(f"{manifest.name}: {name!r} is {array.dtype}{list(array.shape)}, expected {tensor.dtype}[{shape}]")
    return sizes
