"""Rows: the stored answers to one view, read where they are asked for. Neither torch nor the
teacher is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Array

DTYPES = {"F16": "<f2", "F32": "<f4", "U8": "u1", "U16": "<u2", "U32": "<u4", "I32": "<i4"}
"""Of safetensors, in numpy's spelling: those that ``shards`` writes."""
Floats = npt.NDArray[np.float32]


class Rows:
    """``rows[indices]``: float32 ``[len(indices), ...]``, in the order of the samples.

    Where samples have lengths of their own, each is padded at its end to the longest of those that
    are asked for, with NaN: what the teacher did not answer is no answer. Of wide logits of which
    only the largest were kept, each of the others gets the same value, so that all keep their
    common share of the probability at temperature 1; at other temperatures, and among themselves,
    they are flat.
    """

    def __init__(
        self, parts: Sequence[ShardOutput], places: npt.NDArray[np.int64] | None = None
    ) -> None:
        """``places``: the row of every sample, where they are not stored in the order of the
        split."""
        self.parts, self.places = parts, places
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def partial(self) -> bool:
        """Whether only the largest logits were kept."""
        return any(part.width for part in self.parts)

    def __getitem__(self, indices: npt.NDArray[np.int64] | slice) -> Floats:
        rows = np.arange(len(self))[indices] if self.places is None else self.places[indices]
        owner = np.searchsorted(self.ends, rows, "right")
        found = {int(number): np.flatnonzero(owner == number) for number in np.unique(owner)}
        starts = [0, *self.ends]
        blocks = {
            number: self.parts[number][rows[places] - starts[number]]
            for number, places in found.items()
        }
        if len(blocks) == 1:
            return next(iter(blocks.values()))
        made = make_blank(len(rows), [block.shape[1:] for block in blocks.values()])
        for number, block in blocks.items():
            select_corner(made, block.shape[1:])[found[number]] = block
        return made


def join_rows(splits: Sequence[Rows]) -> Rows:
    """Return the samples of all splits, one split after the other."""
    starts = np.cumsum([0, *(len(rows) for rows in splits)])
    own = [np.arange(len(rows)) if rows.places is None else rows.places for rows in splits]
    places = np.concatenate([places + start for places, start in zip(own, starts, strict=False)])
    return Rows([part for rows in splits for part in rows.parts], places)


@dataclass(frozen=True)
class ShardOutput:
    """One output of one shard: its tensors by the ends of their names, and how many logits a row
    has (0: all are there)."""

    tensors: dict[str, Array]
    width: int

    def __len__(self) -> int:
        return len(
            self.tensors["shapes"]
            if "shapes" in self.tensors
            else next(iter(self.tensors.values()))
        )

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Floats:
        if "shapes" not in self.tensors:
            return self.expand_rows(rows)
        shapes = self.tensors["shapes"][rows]
        tail = self.expand_rows(np.arange(0)).shape[1:]
        made = make_blank(len(rows), [(*shape, *tail) for shape in shapes.tolist()])
        for place, (row, shape) in enumerate(zip(rows, shapes.tolist(), strict=True)):
            flat = self.expand_rows(np.arange(*self.bounds[row : row + 2]))
            select_corner(made, (*shape, *tail))[place] = flat.reshape(*shape, *tail)
        return made

    @cached_property
    def bounds(self) -> npt.NDArray[np.int64]:
        """Where the flat rows of each sample begin and end ``[rows + 1]``."""
        sizes = np.asarray(self.tensors["shapes"], np.int64).prod(1)
        return np.concatenate([[0], np.cumsum(sizes)])

    def expand_rows(self, rows: npt.NDArray[np.int64]) -> Floats:
        if not self.width:
            return np.asarray(self.tensors[""][rows], np.float32)
        rest, values, places = (self.tensors[name][rows] for name in ("rest", "values", "indices"))
        made = np.repeat(np.asarray(rest, np.float32)[..., None], self.width, -1)
        np.put_along_axis(made, np.asarray(places, np.int64), np.asarray(values, np.float32), -1)
        return made


def make_blank(count: int, shapes: Sequence[tuple[int, ...]]) -> Floats:
    """Room for the longest of these shapes, NaN where one is shorter."""
    longest = np.max(np.asarray(shapes, np.int64), axis=0) if shapes else ()
    return np.full((count, *longest), np.nan, np.float32)


def select_corner(made: Floats, shape: Sequence[int]) -> Floats:
    """Of every row the first ``shape``, as a view."""
    return made[(slice(None), *(slice(size) for size in shape))]


def map_shard(path: Path) -> dict[str, ShardOutput]:
    """The outputs of a shard by name. Nothing but the header is read before it is asked for."""
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
    made: Array = content[low:high].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return made


def select_tensors(name: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors of one output, by what follows its name."""
    full = {"": name} | {end: f"{name}.{end}" for end in ("values", "indices", "rest", "shapes")}
    return {end: tensors[each] for end, each in full.items() if each in tensors}
