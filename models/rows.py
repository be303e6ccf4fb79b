"""Rows: the stored answers to one view. They are memory-mapped and read on demand, without torch
and without the teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from errno import ENOMEM
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Array
from attar.models.top_answers import TopAnswers
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.open_files import reserve_files

DTYPES = {"F16": "<f2", "F32": "<f4", "U8": "u1", "U16": "<u2", "U32": "<u4", "I32": "<i4"}
"""The dtypes of safetensors that `shards` writes, by their names in numpy."""
Floats = npt.NDArray[np.float32]


class Rows:
    """``rows[indices]`` is float32 ``[len(indices), ...]``, in the order of the samples.

    If samples differ in length, each is padded at its end with NaN to the longest of the requested
    samples. If only the largest of wide logits were stored, all others get one common value:
    together they keep their share of the probability at temperature 1. At other temperatures, and
    among themselves, they are flat.
    """

    def __init__(
        self, parts: Sequence[ShardOutput], places: npt.NDArray[np.int64] | None = None
    ) -> None:
        """``places`` has the row of every sample, if they are not stored in the order of the
        split."""
        self.parts, self.places = parts, places
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def partial(self) -> bool:
        """Whether only the largest logits were stored."""
        return any(part.width for part in self.parts)

    def __getitem__(self, indices: npt.NDArray[np.int64] | slice) -> Floats:
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        rows = indices if self.places is None else self.places[indices]
        owner = np.searchsorted(self.ends, rows, "right")
        starts = [0, *self.ends]
        positions: list[npt.NDArray[np.intp]] = []
        blocks: list[Floats] = []
        for number in np.unique(owner).tolist():
            positions.append(np.flatnonzero(owner == number))
            blocks.append(self.parts[number][rows[positions[-1]] - starts[number]])
        if len(blocks) == 1:
            return blocks[0]
        joined = make_blank(len(rows), [block.shape[1:] for block in blocks])
        for place, block in zip(positions, blocks, strict=True):
            select_corner(joined, block.shape[1:])[place] = block
        return joined

    def read_top(self, indices: npt.NDArray[np.int64]) -> TopAnswers:
        """Return the largest stored logits of these samples, padded as ``rows[indices]`` is.

        If all logits are stored, all are returned.
        """
        rows = indices if self.places is None else self.places[indices]
        owner = np.searchsorted(self.ends, rows, "right")
        starts = [0, *self.ends]
        blocks = [
            self.parts[part].read_top(row - starts[part])
            for row, part in zip(rows, owner, strict=True)
        ]
        longest = max(len(block.rest) for block in blocks)
        values = [pad_end(block.values, longest, np.nan) for block in blocks]
        places = [pad_end(block.indices, longest, 0) for block in blocks]
        rest = [pad_end(block.rest, longest, np.nan) for block in blocks]
        return TopAnswers(np.stack(values), np.stack(places), np.stack(rest), blocks[0].size)


def pad_end(array: npt.NDArray[Any], length: int, value: float) -> npt.NDArray[Any]:
    """Return the array with its first axis filled up to ``length``."""
    padded = np.full(
        (length, *array.shape[1:]), value, array.dtype
    )  # np.pad takes ten times as long
    padded[: len(array)] = array
    return padded


def join_rows(splits: Sequence[Rows]) -> Rows:
    """Return the samples of all splits, one split after the other."""
    if len(splits) == 1:
        return splits[0]
    starts = np.cumsum([0, *(len(rows) for rows in splits)])
    own = [np.arange(len(rows)) if rows.places is None else rows.places for rows in splits]
    places = np.concatenate([places + start for places, start in zip(own, starts, strict=False)])
    return Rows([part for rows in splits for part in rows.parts], places)


@dataclass(frozen=True)
class ShardOutput:
    """One output of one shard. Its tensors are keyed by the suffix of their names; ``width`` is the
    number of logits in a row, or 0 if all of them are stored."""

    tensors: dict[str, Array]
    width: int

    def __len__(self) -> int:
        return len(self.tensors.get("shapes", next(iter(self.tensors.values()))))

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Floats:
        if "shapes" not in self.tensors:
            return self.expand_rows(rows)
        shapes = self.tensors["shapes"][rows]
        tail = self.expand_rows(np.arange(0)).shape[1:]
        padded = make_blank(len(rows), [(*shape, *tail) for shape in shapes.tolist()])
        for place, (row, shape) in enumerate(zip(rows, shapes.tolist(), strict=True)):
            flat = self.expand_rows(np.arange(*self.bounds[row : row + 2]))
            select_corner(padded, (*shape, *tail))[place] = flat.reshape(*shape, *tail)
        return padded

    @cached_property
    def bounds(self) -> npt.NDArray[np.int64]:
        """Return where the flat rows of each sample begin and end: ``[rows + 1]``."""
        sizes = np.asarray(self.tensors["shapes"], np.int64).prod(1)
        return np.concatenate([[0], np.cumsum(sizes)])

    def read_top(self, row: int) -> TopAnswers:
        """Return the largest logits along one sample's path: arrays ``[T, k]`` and ``[T]``."""
        own = slice(*self.bounds[row : row + 2]) if "shapes" in self.tensors else row
        return self.select_top(own)

    def select_top(self, own: int | slice) -> TopAnswers:
        if not self.width:
            whole = np.asarray(self.tensors[""][own], np.float32)
            size = whole.shape[-1]
            nothing = np.full(whole.shape[:-1], -np.inf, np.float32)
            return TopAnswers(whole, np.broadcast_to(np.arange(size), whole.shape), nothing, size)
        values, places, rest = (self.tensors[name][own] for name in ("values", "indices", "rest"))
        return TopAnswers(
            np.asarray(values, np.float32),
            np.asarray(places, np.int64),
            np.asarray(rest, np.float32),
            self.width,
        )

    def expand_rows(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Return rows as float32, with the stored rest in place of logits that were not stored."""
        if not self.width:
            return np.asarray(self.tensors[""][rows], np.float32)
        rest, values, places = (self.tensors[name][rows] for name in ("rest", "values", "indices"))
        dense = np.repeat(np.asarray(rest, np.float32)[..., None], self.width, -1)
        np.put_along_axis(dense, np.asarray(places, np.int64), np.asarray(values, np.float32), -1)
        return dense


def make_blank(count: int, shapes: Sequence[tuple[int, ...]]) -> Floats:
    """Return an array of NaN that holds ``count`` samples of the longest of these shapes."""
    longest = np.max(np.asarray(shapes, np.int64), axis=0) if shapes else ()
    return np.full((count, *longest), np.nan, np.float32)


def select_corner(array: Floats, shape: Sequence[int]) -> Floats:
    """Return a view of the first ``shape`` positions of every sample."""
    return array[(slice(None), *(slice(size) for size in shape))]


def map_shards(folder: Path, name: str) -> list[dict[str, ShardOutput]]:
    """Map the shards ``NAME.NUMBER.safetensors`` of a folder, in the order of their numbers.

    Each is a file that stays open. Raises StageError if they are more than may be open at once.
    """
    files = sorted(folder.glob(f"{name}.*.safetensors"), key=read_number)
    reserve_files(len(files), f"answers ({name} in {folder})")
    try:
        return [map_shard(file) for file in files]
    except OSError as error:
        if error.errno != ENOMEM:
            raise
        raise StageError(
            f"the {len(files)} files of answers ({name} in {folder}) cannot be mapped beside what "
            "is mapped already; raise the kernel's limit (sysctl vm.max_map_count), or read fewer "
            "views or samples"
        ) from error


def read_number(file: Path) -> int:
    """Return the number of a shard. It has five digits in the name, and more from 100,000 on."""
    return int(file.name.split(".")[-2])


def map_shard(path: Path) -> dict[str, ShardOutput]:
    """Return the outputs of a shard by name. Only the header is read; the rest is memory-mapped."""
    content = np.asarray(np.memmap(path, np.uint8, "r"))
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    widths: dict[str, int] = json.loads(header.pop("__metadata__")["widths"])
    tensors = {name: map_tensor(content[start:], entry) for name, entry in header.items()}
    return {
        name: ShardOutput(select_tensors(name, tensors), width) for name, width in widths.items()
    }


def map_tensor(content: npt.NDArray[np.uint8], entry: Mapping[str, Any]) -> Array:
    low, high = entry["data_offsets"]
    tensor: Array = content[low:high].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensor


def select_tensors(name: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors of one output, keyed by the suffix of their names."""
    full = {"": name} | {end: f"{name}.{end}" for end in ("values", "indices", "rest", "shapes")}
    return {end: tensors[key] for end, key in full.items() if key in tensors}
