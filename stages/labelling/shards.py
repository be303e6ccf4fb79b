"""Shards: 16 chunks of one view of one split, in one safetensors file that is mapped, not read.

An output is stored as one tensor ``[rows, ...]`` under its name. Where samples have lengths of their own its rows lie flat, one
after the other, and ``NAME.shapes`` ``[rows, axes]`` says how long each is. Of probabilities the logarithms are stored, as
logits. Of wide logits the ``k`` largest are stored, as ``NAME.values`` and ``NAME.indices`` ``[..., k]``, and ``NAME.rest``
``[...]``, the logarithm of the mean of the exponentials of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from attar.models.probabilities import check_kind, to_logits
from attar.models.task import CLASSIFYING, Array, Output, SplitName
from attar.models.views import CHUNK
from attar.pipeline.errors import StageError

CHUNKS = 16
ROWS = CHUNKS * CHUNK
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shard:
    """Which rows: shard ``number`` of a view, or of the clean split when ``view`` is None."""

    split: SplitName
    view: int | None
    number: int

    @property
    def name(self) -> str:
        """As ``Answers`` finds it."""
        return f"{self.split}.{'clean' if self.view is None else self.view}.{self.number:05}.safetensors"

    def count_rows(self, samples: int) -> int:
        """Of a split of so many samples."""
        return min(ROWS, samples - self.number * ROWS)

    @property
    def title(self) -> str:
        return f"{self.split} {'clean' if self.view is None else f'view {self.view}'}"

    @property
    def dtype(self) -> type[np.float16 | np.float32]:
        return np.float32 if self.view is None else np.float16


def shards(samples: Mapping[SplitName, int], views: int) -> list[Shard]:
    """All that are asked for: train and transfer in every view, the other splits as they are."""
    return [
        Shard(split, view, number)
        for split, count in samples.items()
        for view in (range(views) if split in ("train", "transfer") else [None])
        for number in range(-(-count // ROWS))
    ]


class Packed:
    """One output of one shard, gathered chunk by chunk as it will be stored."""

    def __init__(self, name: str, output: Output, dtype: type[np.float16 | np.float32], top: int = 0) -> None:
        """``top``: keep so many of the largest logits where there are more; 0: all."""
        self.name, self.output, self.dtype, self.top = name, output, dtype, top
        named = [place for place, axis in enumerate(output.axes) if isinstance(axis, str)]
        self.own = max(named, default=0)
        """The axes after the batch that may differ from chunk to chunk are among the first so many."""
        self.shapes: list[npt.NDArray[np.int32]] = []
        self.parts: list[dict[str, Array]] = []
        self.width = 0

    def add(self, answer: Array) -> None:
        """One chunk's answer ``[rows, ...]``. Raises StageError for what is not as declared or does not survive the dtype."""
        self.check(answer)
        check_kind("the teacher's", self.name, self.output.kind, answer)
        answer = to_logits(self.output.kind, answer)
        own = answer.shape[1 : self.own + 1]
        self.shapes.append(np.full((len(answer), len(own)), own, np.int32))
        flat = answer.reshape(-1, *answer.shape[self.own + 1 :])
        wide = self.output.kind in CLASSIFYING and 0 < self.top < answer.shape[-1] and self.own < answer.ndim - 1
        self.width = answer.shape[-1] if wide else 0
        parts = largest(np.asarray(flat, np.float32), self.top) if wide else {"": flat}
        self.parts.append({part: array if part == "indices" else self.narrow(array) for part, array in parts.items()})

    def check(self, answer: Array) -> None:
        axes = self.output.axes
        sizes = zip(axes, answer.shape, strict=False)
        if answer.ndim != len(axes) or any(axis != size for axis, size in sizes if isinstance(axis, int)):
            raise StageError(f"the teacher's {self.name!r} has the shape {answer.shape}, its task declares {axes}")

    def narrow(self, array: Array) -> Array:
        most = float(np.abs(array).max(initial=0))
        if not most <= float(np.finfo(self.dtype).max):  # NaN fails too
            kind = np.dtype(self.dtype)
            raise StageError(f"the teacher's {self.name!r} reaches {most}, more than {kind} holds; scale it, or teach again")
        return array.astype(self.dtype)

    def tensors(self) -> dict[str, Array]:
        shapes = np.concatenate(self.shapes)
        joined = {part: np.concatenate([each[part] for each in self.parts]) for part in self.parts[0]}
        if (shapes == shapes[:1]).all():
            joined = {part: array.reshape(len(shapes), *shapes[0], *array.shape[1:]) for part, array in joined.items()}
        else:
            joined["shapes"] = shapes
        return {f"{self.name}.{part}" if part else self.name: array for part, array in joined.items()}


def largest(logits: Floats, top: int) -> dict[str, Array]:
    """The ``top`` largest along the last axis, where they are, and the log-mean-exp of the others."""
    places = np.argpartition(logits, -top, axis=-1)  # (..., classes): the largest stand last
    ordered = np.take_along_axis(logits, places, -1).astype(np.float64)
    others = ordered[..., :-top]
    peak = others.max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # what is not finite is refused by `narrow`, with a message
        rest = np.log(np.exp(others - peak).mean(-1)) + peak[..., 0]
    kind = np.min_scalar_type(logits.shape[-1] - 1)
    return {"values": ordered[..., -top:], "indices": places[..., -top:].astype(kind), "rest": rest}


def save(path: Path, packed: Sequence[Packed]) -> None:
    tensors = {name: array for each in packed for name, array in each.tensors().items()}
    widths = {each.name: each.width for each in packed}
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path, {"widths": json.dumps(widths)})
