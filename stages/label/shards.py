"""Shards: 16 chunks of one view of one split, in one safetensors file that is mapped, not read.

An output is stored as one tensor ``[rows, ...]`` under its name. If samples differ in length, its
rows are stored flat, one after the other, and ``NAME.shapes`` ``[rows, axes]`` has their lengths.
The logarithms of probabilities are stored, as logits. Of wide logits the ``k`` largest are stored,
as ``NAME.values`` and ``NAME.indices`` ``[..., k]``, and ``NAME.rest`` ``[...]``, the logarithm of
the mean of the exponentials of the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from attar.models.probabilities import KindCheck, to_logits
from attar.models.task import CLASSIFYING, Array, Output, SplitName
from attar.models.tensors import has_fixed_sizes
from attar.models.views import CHUNK
from attar.pipeline.core.errors import StageError

CHUNKS_PER_SHARD = 16
ROWS_PER_SHARD = CHUNKS_PER_SHARD * CHUNK
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """The place of a shard: its number in a view, or in the clean split if ``view`` is None."""

    split: SplitName
    view: int | None
    number: int

    @property
    def name(self) -> str:
        """The name of its file in ``Answers``."""
        view = "clean" if self.view is None else self.view
        return f"{self.split}.{view}.{self.number:05}.safetensors"

    def count_rows(self, samples: int) -> int:
        """Return its number of rows if the split has this many samples."""
        return min(ROWS_PER_SHARD, samples - self.number * ROWS_PER_SHARD)

    @property
    def title(self) -> str:
        return f"{self.split} {'clean' if self.view is None else f'view {self.view}'}"

    @property
    def dtype(self) -> type[np.float16 | np.float32]:
        return np.float32 if self.view is None else np.float16


def list_shards(samples: Mapping[SplitName, int], views: int) -> list[Shard]:
    """Return all shards: train and transfer in every view, and the other clean splits."""
    shards = []
    for split, count in samples.items():
        split_views = range(views) if split in ("train", "transfer") else [None]
        for view in split_views:
            numbers = range(-(-count // ROWS_PER_SHARD))
            shards += [Shard(split, view, number) for number in numbers]
    return shards


class ShardBuilder:
    """Builds the stored tensors of one output of one shard, chunk by chunk."""

    def __init__(self, name: str, output: Output, dtype: npt.DTypeLike, top: int = 0) -> None:
        """``top``: the number of largest logits to store; 0 stores all."""
        self.name, self.output, self.dtype, self.top = name, output, np.dtype(dtype), top
        named = [place for place, axis in enumerate(output.axes) if isinstance(axis, str)]
        self.dynamic_axes = max(named, default=0)
        """Number of leading axes, after the batch, of which any may differ from chunk to chunk."""
        self.shapes: list[npt.NDArray[np.int32]] = []
        self.parts: list[dict[str, Array]] = []
        self.width = 0
        self.kind_check = KindCheck("the teacher's", name, output.kind)

    def add(self, answer: Array, lengths: Integers | None = None) -> None:
        """Add one chunk's answer ``[rows, ...]``.

        ``lengths`` ``[rows]``: how much of the second axis is each row's own, and is stored; None:
        all. Raises StageError if it is not as declared or the dtype cannot hold it.
        """
        self.check_shape(answer)
        self.kind_check.add(answer)
        answer = to_logits(self.output.kind, answer)
        own = answer.shape[1 : self.dynamic_axes + 1]
        flat = answer.reshape(-1, *answer.shape[self.dynamic_axes + 1 :])
        if lengths is None:
            self.shapes.append(np.full((len(answer), len(own)), own, np.int32))
        else:
            self.shapes.append(lengths[:, None].astype(np.int32))
            flat = answer[np.arange(answer.shape[1]) < lengths[:, None]]
        is_wide = self.has_classes() and 0 < self.top < answer.shape[-1]
        self.width = answer.shape[-1] if is_wide else 0
        parts = select_largest(np.asarray(flat, np.float32), self.top) if is_wide else {"": flat}
        for part in parts.keys() - {"indices"}:
            parts[part] = self.convert_dtype(parts[part])
        self.parts.append(parts)

    def restore_order(self, groups: Sequence[Integers]) -> None:
        """Put the rows of the last chunk, which was added in these groups of rows, in order."""
        count, order = len(groups), np.argsort(np.concatenate(groups))
        shapes = np.concatenate(self.shapes[-count:])
        ends = np.cumsum(shapes.prod(1))
        starts = ends - shapes.prod(1)
        rows = np.concatenate([np.arange(starts[row], ends[row]) for row in order])
        parts = {
            name: np.concatenate([part[name] for part in self.parts[-count:]])[rows]
            for name in self.parts[-1]
        }
        self.shapes[-count:], self.parts[-count:] = [shapes[order]], [parts]

    def has_classes(self) -> bool:
        """Whether the last axis is a fixed number of classes."""
        last_axis = len(self.output.axes) - 1
        return self.output.kind in CLASSIFYING and self.dynamic_axes < last_axis

    def check_shape(self, answer: Array) -> None:
        """Raises StageError unless the answer has the declared axes."""
        if not has_fixed_sizes(self.output.axes, answer.shape):
            raise StageError(
                f"the teacher's {self.name!r} has the shape {answer.shape}, its task declares "
                f"{self.output.axes}"
            )

    def convert_dtype(self, array: Array) -> Array:
        """Return the array in the stored dtype. Raises StageError for values out of its range."""
        if np.issubdtype(self.dtype, np.unsignedinteger):
            return array.astype(self.dtype)
        peak = float(np.abs(array).max(initial=0))
        if not peak <= float(np.finfo(self.dtype).max):  # NaN fails too
            raise StageError(
                f"the teacher's {self.name!r} reaches {peak}, which {self.dtype} cannot "
                "hold; scale it, or train the teacher again"
            )
        return array.astype(self.dtype)

    def build_tensors(self) -> dict[str, Array]:
        """Return the tensors to store, by their names in the file.

        Raises StageError if the rows of declared logits are probabilities.
        """
        self.kind_check.finish()
        shapes = np.concatenate(self.shapes)
        is_ragged = bool((shapes != shapes[:1]).any())
        tensors: dict[str, Array] = {f"{self.name}.shapes": shapes} if is_ragged else {}
        for part in self.parts[0]:
            array = np.concatenate([chunk[part] for chunk in self.parts])
            if not is_ragged:
                array = array.reshape(len(shapes), *shapes[0], *array.shape[1:])
            tensors[f"{self.name}.{part}" if part else self.name] = array
        return tensors


def select_largest(logits: Floats, top: int) -> dict[str, Array]:
    """Return the ``top`` largest along the last axis, their indices, and ``rest``.

    ``rest`` is the log-mean-exp of the others.
    """
    import torch

    tensor = torch.from_numpy(np.array(logits, np.float32))  # a copy, which loses its largest
    values, places = torch.topk(tensor, top, sorted=False)
    others = tensor.scatter_(-1, places, -torch.inf)
    rest = torch.logsumexp(others, -1) - math.log(logits.shape[-1] - top)
    kind = np.min_scalar_type(logits.shape[-1] - 1)
    return {"values": values.numpy(), "indices": places.numpy().astype(kind), "rest": rest.numpy()}


def save_shard(path: Path, builders: Sequence[ShardBuilder]) -> None:
    """Write one shard: the tensors of all its outputs."""
    tensors: dict[str, Array] = {}
    for builder in builders:
        for name, array in builder.build_tensors().items():
            tensors[name] = np.ascontiguousarray(array)
    widths = {builder.name: builder.width for builder in builders}
    save_file(tensors, path, {"widths": json.dumps(widths)})
