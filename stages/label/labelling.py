"""Labelling: shards whose files are known are noted, and those of the others are written, while
workers prepare their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

from attar.models.task import SplitName
from attar.pipeline.core.observation import observe
from attar.pipeline.core.progress import report_progress
from attar.stages.label.shard_labeller import ShardLabeller
from attar.stages.label.shards import Shard


@dataclass(frozen=True)
class ShardNote:
    """What is noted of a finished shard until all are."""

    device: str
    """The device that the teacher ran on."""
    file: str
    """Its name in the file cache."""

    def write(self, note: Path) -> None:
        note.write_text(f"{self.device}\n{self.file}", encoding="utf-8")

    @classmethod
    def read(cls, note: Path) -> Self:
        """Read a note. Of one that was cut off the name is that of no file."""
        device, _, file = note.read_text(encoding="utf-8").partition("\n")
        return cls(device, file)


class LabelProgress:
    """Shows how many samples are answered in the shards of all processes."""

    def __init__(
        self, shards: Sequence[Shard], samples: Mapping[SplitName, int], work: Path
    ) -> None:
        self.rows = {shard.name: shard.count_rows(samples[shard.split]) for shard in shards}
        self.total, self.work = sum(self.rows.values()), work
        self.done, self.title = 0, ""

    def start_shard(self, shard: Shard) -> None:
        """Start a shard. A note of the shard itself names a damaged file, so it does not count."""
        finished = {path.name for path in self.work.iterdir()} - {shard.name}
        self.done, self.title = sum(self.rows[name] for name in finished), shard.title
        self.add_rows(0)

    def add_rows(self, rows: int, note: str = "") -> None:
        """Show that so many more samples are answered."""
        self.done += rows
        report_progress("answers", self.done, self.total, f"{self.title} {note}".strip())


def label_shards(
    labeller: ShardLabeller,
    shards: Sequence[Shard],
    work: Path,
    progress: LabelProgress,
    workers: int | None,
) -> None:
    """Note the file of each shard in ``work``, and write those that are not known.

    ``workers`` processes prepare the samples, a chunk each ahead; None: as many as are worth it.
    """
    unknown = [shard for shard in shards if not recall_shard(labeller, shard, work)]
    if not unknown:
        return
    from attar.stages.loading import BatchClock, choose_workers, open_loader

    source, clock = labeller.open_source(unknown), BatchClock()
    if workers is None:
        first = source.list_chunks(0)[0]
        workers = choose_workers(lambda: source.read_chunk(0, first), source.count_chunks())
    with open_loader(source, source.list_requests(), workers, ahead=workers) as loaded:
        chunks = clock.watch(loaded)
        for place, shard in enumerate(unknown):
            progress.start_shard(shard)
            own = islice(chunks, len(source.list_chunks(place)))
            file = labeller.label_shard(
                shard, own, lambda rows: progress.add_rows(rows, clock.describe())
            )
            note_file(labeller, shard, file, work)
        next(chunks, None)  # the clock counts a chunk when the next one is asked for
    observe("waiting", round(clock.share, 4))
    observe("workers", workers)


def recall_shard(labeller: ShardLabeller, shard: Shard, work: Path) -> bool:
    """Note the file of a shard if it is known. Return whether it is."""
    file = labeller.recall_shard(shard)
    if file is not None:
        note_file(labeller, shard, file, work)
    return file is not None


def note_file(labeller: ShardLabeller, shard: Shard, file: Path, work: Path) -> None:
    ShardNote(labeller.device, file.name).write(work / shard.name)
