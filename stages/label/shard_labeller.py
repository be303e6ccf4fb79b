"""Label shards: run the teacher on the recorded views that no cached shard has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from attar.models import lengths, views
from attar.models.checks.content import read_content
from attar.models.checks.failures import blame_inputs, name_sample
from attar.models.generation import Integers, find_decoding, measure_lengths
from attar.models.mixing import Mixing
from attar.models.task import Array, Arrays, Predictor, Split, SplitName, Task
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.pipeline.store.file_cache import FileCache
from attar.stages.label.features import FeatureLabels
from attar.stages.label.sequence_labels import SequenceLabels
from attar.stages.label.shard_source import ShardSource
from attar.stages.label.shards import Shard, ShardBuilder, save_shard

SIMILAR_LENGTH_SAMPLES = 64
"""Samples of similar length that the teacher is run on at once."""


@dataclass(frozen=True)
class ShardLabeller:
    """Runs one teacher on shards.

    A shard is cached under the digest of its inputs, so the teacher answers equal inputs once. The
    labels count, too, where a path depends on them.
    """

    task: Task
    splits: Mapping[SplitName, Split]
    predict: Predictor
    cache: FileCache
    seed: int
    """Seed of the views."""
    top: int
    device: str
    data_digest: str = ""
    """Digest of the task's data. Its own ``answer`` may read them, apart from the inputs."""
    sequences: SequenceLabels = field(default_factory=SequenceLabels)
    """How the teacher answers an output of tokens."""
    mixing: Mixing | None = None
    """How the samples of views are mixed."""
    batch: int | None = None
    """Samples that the teacher is given at once; None: those of `choose_piece`, or 64 that differ
    in length."""
    features: FeatureLabels = field(default_factory=FeatureLabels)
    """The features that are stored beside the answers to views."""

    def recall_shard(self, shard: Shard) -> Path | None:
        """Return the file of a shard that was planned before in the same way: it is not prepared
        again."""
        return self.cache.recall(self.digest_plan(shard))

    def label_shard(
        self, shard: Shard, chunks: Iterator[ViewBatch], on_rows: Callable[[int], None]
    ) -> Path:
        """Return the file of a shard with these chunks, and write it if it is not cached.

        ``on_rows`` is called with the number of samples that the teacher has just answered.
        """
        path = self.find_or_write_shard(shard, chunks, on_rows)
        self.cache.remember(self.digest_plan(shard), path)
        return path

    def digest_plan(self, shard: Shard) -> str:
        """Return the digest of all that decides a shard, as far as it is known without its inputs.

        What the cache's folder stands for (teacher, code, libraries) is not in it. As in every
        key, ``Task.data`` speaks for the content of a split.
        """
        decided = (self.data_digest, len(self.splits[shard.split]), self.describe_settings(shard))
        view = None if shard.view is None else (self.seed, self.mixing)
        return hashlib.sha256(repr((shard.name, *decided, view)).encode()).hexdigest()

    def find_or_write_shard(
        self, shard: Shard, chunks: Iterator[ViewBatch], on_rows: Callable[[int], None]
    ) -> Path:
        """Return the file of a shard that has these inputs, and write it if it is not cached.

        Its inputs are prepared, because they name the file. All chunks are read, one at a time.
        Inputs are prepared twice only if a cached shard starts with the same chunk and differs
        after.
        """
        first = next(chunks)
        start = self.digest_inputs(shard, [first])
        if self.cache.has_prefix(start[:16]):
            whole = self.digest_inputs(shard, chain([first], chunks))
            cached = self.cache.find(name_file(start, whole))
            if cached is not None:
                return cached
            chunks = self.iterate_chunks(shard)
            next(chunks)
        return self.write_shard(shard, start, chain([first], chunks), on_rows)

    def iterate_chunks(self, shard: Shard) -> Iterator[ViewBatch]:
        """Yield the chunks of a shard as the teacher sees them."""
        source = self.open_source([shard])
        return (source.read_chunk(0, number) for number in source.list_chunks(0))

    def open_source(self, shards: Sequence[Shard]) -> ShardSource:
        return ShardSource(self.task, self.splits, shards, self.seed, self.mixing)

    def write_shard(
        self, shard: Shard, start: str, chunks: Iterable[ViewBatch], on_rows: Callable[[int], None]
    ) -> Path:
        builders = self.make_builders(shard)
        digest = self.start_digest(shard)
        for batch in chunks:
            self.add_batch(digest, shard, batch)
            groups = self.group_samples(batch)
            for rows in groups:
                part = views.trim_padding(self.task, batch.take(rows))
                answer = self.answer_part(shard, part)
                self.check_rows(part, answer)
                self.check_numbers(shard, part, answer)
                lengths = self.measure_lengths(answer)
                for builder in builders:
                    builder.add(answer[builder.name], lengths if builder.dynamic_axes else None)
                on_rows(len(rows))
            for builder in builders:
                builder.restore_order(groups)
        name = name_file(start, digest.hexdigest())
        return self.cache.add(name, lambda path: save_shard(path, builders))

    def measure_lengths(self, answer: Mapping[str, Array]) -> Integers | None:
        """Return the number of tokens of each sample; None if the answer is none of tokens.

        A teacher that says nothing but padding is stored with the first of it.
        """
        decoding = find_decoding(self.task)
        if decoding is None:
            return None
        tokens = np.asarray(answer[decoding.output], np.int64)
        return np.maximum(1, measure_lengths(tokens, decoding.vocabulary))

    def make_builders(self, shard: Shard) -> list[ShardBuilder]:
        if decoding := find_decoding(self.task):
            return self.sequences.make_builders(shard, decoding, self.task.outputs[decoding.output])
        top = 0 if shard.view is None else self.top
        return [
            ShardBuilder(name, output, shard.dtype, top)
            for name, output in self.task.outputs.items()
        ] + self.features.make_builders(shard)

    def check_rows(self, part: ViewBatch, answer: Mapping[str, Array]) -> None:
        """Raises StageError unless each output has one row for each sample."""
        if missing := self.task.outputs.keys() - answer.keys():
            raise StageError(
                f"the teacher's answer lacks {sorted(missing)}, which its task names; it has "
                f"{sorted(answer)}"
            )
        for name in self.task.outputs:
            if len(answer[name]) != len(part.indices):
                raise StageError(
                    f"the teacher's {name!r} has {len(answer[name])} rows for {len(part.indices)} "
                    "samples; it must answer each once, in their order"
                )

    def check_numbers(self, shard: Shard, part: ViewBatch, answer: Mapping[str, Array]) -> None:
        """Raises StageError if an answer is NaN: it says for which sample, and whether its inputs
        are to blame."""
        for name in self.task.outputs:
            wrong = np.isnan(answer[name]).reshape(len(part.indices), -1).any(1)
            if wrong.any():
                row = int(wrong.argmax())
                sample = int(part.indices[row])
                named = " ".join([str(sample), *name_sample(self.splits[shard.split], sample)])
                raise StageError(
                    f"the teacher's {name!r} is NaN for sample {named} of {shard.split}"
                    + blame_inputs({key: array[row] for key, array in part.inputs.items()})
                )

    def group_samples(self, batch: ViewBatch) -> list[Integers]:
        """Return the samples of a chunk in groups that the teacher answers together.

        Samples of similar length go together. The chunk alone decides which do, so rounding does
        not depend on the process or the order.
        """
        samples = np.arange(len(batch.indices))
        if lengths.list_length_axes(self.task):
            size = self.batch or SIMILAR_LENGTH_SAMPLES
            return lengths.group_by_length(self.task, batch.inputs, samples, size)
        size = self.batch or views.choose_piece(self.task, self.device)
        return [samples[start : start + size] for start in range(0, len(samples), size)]

    def answer_part(self, shard: Shard, part: ViewBatch) -> dict[str, Array]:
        if find_decoding(self.task):
            return self.sequences.answer(self.task, self.predict.graphs, part, shard)
        return self.features.answer(self.task, self.predict.graphs, part.inputs)

    def digest_inputs(self, shard: Shard, chunks: Iterable[ViewBatch]) -> str:
        """Return the digest that a shard with these chunks has."""
        digest = self.start_digest(shard)
        for batch in chunks:
            self.add_batch(digest, shard, batch)
        return digest.hexdigest()

    def add_batch(self, digest: hashlib._Hash, shard: Shard, batch: ViewBatch) -> None:
        """Add what the answers depend on: the inputs, and the labels if they decide a path."""
        update_digest(digest, batch.inputs)
        if find_decoding(self.task) and shard.view is not None and self.sequences.reads_labels:
            update_digest(digest, batch.targets)

    def start_digest(self, shard: Shard) -> hashlib._Hash:
        """Return a hash of the settings that decide a shard."""
        return hashlib.sha256(self.describe_settings(shard).encode())

    def describe_settings(self, shard: Shard) -> str:
        """Return what decides a shard beside its inputs."""
        top = 0 if shard.view is None else self.top
        may_read_data = type(self.task).answer is not Task.answer
        data_digest = self.data_digest if may_read_data else ""
        settings = f"{shard.dtype.__name__} {top} {self.device} {data_digest}"
        settings += self.features.describe(shard)
        if find_decoding(self.task):
            settings += self.sequences.describe(self.task, shard)
        return settings


def name_file(start: str, whole: str) -> str:
    """Return the name of a cached shard, from the digests of its first chunk and of all."""
    return f"{start[:16]}-{whole}"


def update_digest(digest: hashlib._Hash, inputs: Arrays) -> None:
    """Add named arrays to a digest."""
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(read_content(array) if array.dtype == object else array.tobytes())
