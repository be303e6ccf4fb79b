"""The chunks of shards, as the teacher reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attar.models import views
from attar.models.checks.failures import describe_samples, name_failed_sample
from attar.models.mixing import Mixing
from attar.models.task import Split, SplitName, Task
from attar.models.views import ViewBatch
from attar.stages.label.shards import CHUNKS_PER_SHARD, Shard

if TYPE_CHECKING:
    from attar.stages.loading import ChunkRequest


@dataclass(frozen=True)
class ShardSource:
    """Prepares the chunks of some shards. A chunk is named by the place of its shard among them,
    and by its number in the split."""

    task: Task
    splits: Mapping[SplitName, Split]
    shards: Sequence[Shard]
    seed: int
    """Seed of the views."""
    mixing: Mixing | None = None
    """How the samples of views are mixed."""

    def list_chunks(self, place: int) -> range:
        """Return the numbers of a shard's chunks."""
        shard = self.shards[place]
        first, count = shard.number * CHUNKS_PER_SHARD, views.count_chunks(self.splits[shard.split])
        return range(first, min(first + CHUNKS_PER_SHARD, count))

    def count_chunks(self) -> int:
        return sum(len(self.list_chunks(place)) for place in range(len(self.shards)))

    def list_requests(self) -> Iterator[ChunkRequest]:
        """Yield all chunks, shard by shard."""
        from attar.stages.loading import ChunkRequest

        for place in range(len(self.shards)):
            for number in self.list_chunks(place):
                yield ChunkRequest(place, number)

    def read_chunk(self, view: int, number: int) -> ViewBatch:
        """Return a chunk of the shard at this place. Raises StageError that names the sample that
        cannot be prepared."""
        shard = self.shards[view]
        split = self.splits[shard.split]
        indices = views.list_chunk(split, number, shard.view)
        with name_failed_sample(self.task, split, indices, shard.split):
            return views.make_chunk(
                self.task, split, number, seed=self.seed, view=shard.view, mixing=self.mixing
            )

    def describe_chunk(self, view: int, number: int) -> str:
        """Return which samples a chunk of the shard at this place holds, for a message."""
        shard = self.shards[view]
        split = self.splits[shard.split]
        return describe_samples(split, views.list_chunk(split, number, shard.view), shard.split)
