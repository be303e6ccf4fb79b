"""Batches of samples that are put together: with and without labels, and of other lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attar.models.mixing import Mixing, add_partners
from attar.models.task import Array, Split
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError


def drop_labels(split: Split, chunk: ViewBatch, mixing: Mixing | None = None) -> ViewBatch:
    """Return samples of transfer without targets, with indices that continue those of ``split``."""
    none = {name: target[:0] for name, target in split.take(np.arange(1)).targets.items()}
    if mixing is not None:
        none = add_partners(none, np.arange(0), np.zeros(0, np.float32))
    return ViewBatch(chunk.indices + len(split), chunk.inputs, none)


def join_batches(parts: list[ViewBatch], pads: Mapping[str, int]) -> ViewBatch:
    """Join batches in order, samples with labels first. ``pads`` has the padding of each input.
    Raises StageError for targets of different shapes."""
    indices = np.concatenate([part.indices for part in parts])
    inputs = {
        name: join_padded([part.inputs[name] for part in parts], pads[name])
        for name in parts[0].inputs
    }
    targets = {
        name: join_targets(name, [part.targets[name] for part in parts])
        for name in parts[0].targets
    }
    labelled = np.concatenate([np.arange(len(part.indices)) < part.labelled for part in parts])
    if not labelled.all():
        rows = np.argsort(~labelled, kind="stable")
        indices, inputs = indices[rows], {name: array[rows] for name, array in inputs.items()}
    return ViewBatch(indices, inputs, targets)


def join_padded(arrays: Sequence[Array], pad: int) -> Array:
    """Join arrays in order. Samples that are shorter than others are filled up with ``pad``."""
    joined = allocate_padded(arrays, sum(map(len, arrays)), pad)
    start = 0
    for array in arrays:
        joined[(slice(start, start + len(array)), *select_corner(array))] = array
        start += len(array)
    return joined


def allocate_padded(arrays: Sequence[Array], count: int, pad: int) -> Array:
    """Return room for so many samples, as long as the longest of ``arrays``: filled with ``pad``,
    unless all are as long."""
    shapes = [array.shape[1:] for array in arrays]
    longest = np.max(shapes, axis=0).astype(int).tolist()
    joined = np.empty((count, *longest), np.result_type(*arrays))
    if len(set(shapes)) > 1:
        joined.fill(pad)
    return joined


def select_corner(array: Array) -> tuple[slice, ...]:
    """Return where the samples of ``array`` lie in longer ones."""
    return tuple(slice(size) for size in array.shape[1:])


def join_targets(name: str, targets: Sequence[Array]) -> Array:
    check_target_shapes(name, targets)
    return np.concatenate(targets)


def check_target_shapes(name: str, targets: Sequence[Array]) -> None:
    """Raise StageError if the samples of a target differ in shape."""
    shapes = {target.shape[1:] for target in targets}
    if len(shapes) > 1:
        listed = ", ".join(str(shape) for shape in sorted(shapes))
        raise StageError(
            f"the target {name!r} has rows of {listed}: only inputs may have lengths of their own, "
            "for a label has no padding; pad all samples to one length in Task.split"
        )
