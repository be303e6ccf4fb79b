"""Asking: one shard after another, each from its recorded view, and none that the teacher answered before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from attar.models import lengths, views
from attar.models.task import Array, Arrays, Predictor, Split, SplitName, Task
from attar.models.views import Seen
from attar.pipeline.errors import StageError
from attar.pipeline.kept import Kept
from attar.stages.labelling.shards import CHUNKS, Packed, Shard, save

TOGETHER = 64
"""Samples of like length that are asked at once."""


@dataclass(frozen=True)
class Asking:
    """A teacher and what it is asked. A shard is kept under the digest of its inputs, so the same inputs are asked once."""

    task: Task
    splits: Mapping[SplitName, Split]
    predict: Predictor
    kept: Kept
    seed: int
    """Of the views."""
    top: int
    device: str
    reads: str = ""
    """Digest of the data that the task's own ``answer`` may read, besides the inputs."""

    def answered(self, shard: Shard, on_rows: Callable[[int], None]) -> Path:
        """The shard's file, made where there is none. Its inputs are prepared in any case: they are what names it.

        ``on_rows`` is called with the number of samples that the teacher has just answered.
        One chunk is in memory at a time. Inputs are prepared twice only where a kept shard starts alike and goes on otherwise.
        """
        chunks = self.chunks(shard)
        first = next(chunks)
        start = self.digest(shard, [first])
        if self.kept.any(start[:16]):
            known = self.kept.find(self.name(start, self.digest(shard, chain([first], chunks))))
            if known is not None:
                return known
            chunks = self.chunks(shard)
            next(chunks)
        return self.ask(shard, start, chain([first], chunks), on_rows)

    def chunks(self, shard: Shard) -> Iterator[Seen]:
        split = self.splits[shard.split]
        first = shard.number * CHUNKS
        for number in range(first, min(first + CHUNKS, views.chunks(split))):
            yield views.chunk(self.task, split, number, seed=self.seed, view=shard.view)

    def ask(self, shard: Shard, start: str, chunks: Iterable[Seen], on_rows: Callable[[int], None]) -> Path:
        top = 0 if shard.view is None else self.top
        packed = [Packed(name, output, shard.dtype, top) for name, output in self.task.outputs.items()]
        decided = self.decided(shard)
        for seen in chunks:
            update(decided, seen.inputs)
            for part, answer in self.answers(seen, on_rows):
                self.check(part, answer)
                for each in packed:
                    each.add(answer[each.name])
        return self.kept.add(self.name(start, decided.hexdigest()), lambda path: save(path, packed))

    def check(self, part: Seen, answer: Mapping[str, Array]) -> None:
        """Raises StageError where the teacher did not answer these samples."""
        if missing := self.task.outputs.keys() - answer.keys():
            raise StageError(f"the teacher's answer lacks {sorted(missing)}, which its task names; it has {sorted(answer)}")
        for name in self.task.outputs:
            if len(answer[name]) != len(part.indices):
                raise StageError(
                    f"the teacher's {name!r} has {len(answer[name])} rows for {len(part.indices)} samples; "
                    "it must answer each once, in their order"
                )

    def answers(self, seen: Seen, on_rows: Callable[[int], None]) -> Iterator[tuple[Seen, dict[str, Array]]]:
        """The teacher's outputs for one chunk, piece by piece; samples of lengths of their own with those of like length.

        The chunk alone decides which are asked together, so the same sums are rounded whoever asks, and in which order.
        """
        axes = [axis for output in self.task.outputs.values() for axis in output.axes[1:]]
        if lengths.axes(self.task) and not any(isinstance(axis, str) for axis in axes):
            yield seen, self.answer_by_length(seen, on_rows)
            return
        for piece in views.pieces(seen):
            yield piece, self.task.answer(self.predict.graphs, piece.inputs)
            on_rows(len(piece.indices))

    def answer_by_length(self, seen: Seen, on_rows: Callable[[int], None]) -> dict[str, Array]:
        groups = lengths.alike(self.task, seen.inputs, np.arange(len(seen.indices)), TOGETHER)
        answers = []
        for rows in groups:
            answers.append(self.task.answer(self.predict.graphs, views.trimmed(self.task, seen.take(rows)).inputs))
            on_rows(len(rows))
        back = np.argsort(np.concatenate(groups))
        return {name: np.concatenate([each[name] for each in answers])[back] for name in answers[0]}

    def name(self, start: str, whole: str) -> str:
        return f"{start[:16]}-{whole}"

    def digest(self, shard: Shard, chunks: Iterable[Seen]) -> str:
        decided = self.decided(shard)
        for seen in chunks:
            update(decided, seen.inputs)
        return decided.hexdigest()

    def decided(self, shard: Shard) -> hashlib._Hash:
        """What decides a shard besides its inputs, the teacher and the code."""
        top = 0 if shard.view is None else self.top
        return hashlib.sha256(f"{shard.dtype.__name__} {top} {self.device} {self.reads}".encode())


def update(decided: hashlib._Hash, inputs: Arrays) -> None:
    for name in sorted(inputs):
        array = inputs[name]
        decided.update(f"{name} {array.dtype} {array.shape}".encode())
        decided.update(array.tobytes())
