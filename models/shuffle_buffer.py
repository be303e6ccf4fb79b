"""Shuffle buffer: batches side by side, of whose samples other batches are formed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attar.models.batches import allocate_padded, check_target_shapes, select_corner
from attar.models.lengths import measure_labels
from attar.models.sample_order import Integers
from attar.models.task import Array, Task
from attar.models.views import ViewBatch, WholeStep


class ShuffleBuffer:
    """Batches whose samples are copied when they are taken. Rows are counted batch after batch.

    To join the batches first would be one more copy: of images, as much as forming all batches of
    a training. ``pads`` has the padding of each input. Raises StageError for targets of different
    shapes.
    """

    def __init__(self, parts: Sequence[ViewBatch], pads: Mapping[str, int]) -> None:
        for name in parts[0].targets:
            check_target_shapes(name, [part.targets[name] for part in parts])
        self.parts, self.pads = parts, pads
        places = [np.arange(len(part.indices)) for part in parts]
        self.indices = np.concatenate([part.indices for part in parts])
        self.part_numbers = np.repeat(np.arange(len(parts)), [len(each) for each in places])
        self.places = np.concatenate(places)
        own = zip(places, parts, strict=True)
        self.has_label = np.concatenate([each < part.labelled for each, part in own])

    def take(self, rows: Integers) -> ViewBatch:
        """Return these samples, those with labels first."""
        labelled = rows[self.has_label[rows]]
        rows = np.concatenate([labelled, rows[~self.has_label[rows]]])
        inputs = {
            name: self.copy_rows(rows, [part.inputs[name] for part in self.parts], pad)
            for name, pad in self.pads.items()
        }
        targets = {
            name: self.copy_rows(labelled, [part.targets[name] for part in self.parts])
            for name in self.parts[0].targets
        }
        return ViewBatch(self.indices[rows], inputs, targets)

    def measure_labels(self, task: Task) -> Integers | None:
        """Return the number of tokens of each sample's label, 0 where it has none; None if no label
        is a sequence."""
        found = [measure_labels(task, part.targets) for part in self.parts]
        counts = [each for each in found if each is not None]
        if len(counts) < len(found):
            return None
        tokens = np.zeros(len(self.indices), np.int64)
        tokens[self.has_label] = np.concatenate(counts)
        return tokens

    def describe_step(
        self, rows: Integers, tokens: Integers | None, labelled: int, parts: int, known: float
    ) -> WholeStep:
        """Return the step of ``labelled`` samples with labels of which these, the share ``known``,
        are here. ``tokens`` are those of `measure_labels`."""
        count, own = None, int(self.has_label[rows].sum())
        if tokens is not None:
            count = tokens[rows].sum() * labelled / own if own else 0.0
        return WholeStep(parts, labelled, self.indices[rows], count, known)

    def copy_rows(self, rows: Integers, arrays: Sequence[Array], pad: int = 0) -> Array:
        """Return rows of arrays, one of each batch."""
        copied, corners = allocate_padded(arrays, len(rows), pad), list(map(select_corner, arrays))
        sources = zip(self.part_numbers[rows].tolist(), self.places[rows].tolist(), strict=True)
        for row, (number, place) in enumerate(sources):
            copied[(row, *corners[number])] = arrays[number][place]
        return copied
