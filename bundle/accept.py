"""Accept: whether a call has the inputs that a bundle takes."""

from __future__ import annotations

from attar.bundle.manifest import Manifest
from attar.models.tensors import Array, Arrays, AxisRanges, find_mismatch
from attar.pipeline.core.errors import AttarError, suggest_name


def check_inputs(manifest: Manifest, inputs: Arrays) -> None:
    """Raises AttarError for a name, dtype, size or integer that the bundle does not take."""
    check_tensors(manifest, inputs, manifest.ranges)
    for name, tensor in manifest.inputs.items():
        if (wrong := find_outside(inputs[name], tensor.high)) is not None:
            raise AttarError(
                f"{manifest.name}: {name!r} has the value {wrong}, "
                f"values lie from 0 to {(tensor.high or 0) - 1}"
            )


def check_tensors(manifest: Manifest, inputs: Arrays, ranges: AxisRanges | None = None) -> None:
    """Raises AttarError for a name, dtype or shape that is not declared, or a size out of range."""
    for name in inputs.keys() ^ manifest.inputs.keys():
        problem = (
            "is missing"
            if name in manifest.inputs
            else f"is not an input; {suggest_name(name, manifest.inputs)}"
        )
        raise AttarError(f"{manifest.name}: {name!r} {problem}")
    sizes: dict[str, int] = {}
    for name, spec in manifest.input_specs.items():
        array = inputs[name]
        if mismatch := find_mismatch(spec, array.shape, array.dtype, ranges, sizes):
            raise AttarError(f"{manifest.name}: {name!r} {mismatch}")


def find_outside(array: Array, high: int | None) -> int | None:
    """A value that is not in ``[0, high)``; None where all are, or any may be."""
    if high is None or not array.size:
        return None
    return next((int(value) for value in (array.min(), array.max()) if not 0 <= value < high), None)
