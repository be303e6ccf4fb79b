"""The answers of a teacher, stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from attar.models.mixing import Mixing
from attar.models.rows import Rows, join_rows, map_shards
from attar.models.sample_order import Integers, digest_order, find_places
from attar.models.task import Array
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.file_fetching import fetch_files
from attar.pipeline.core.stage import Artifact


class Answers(Artifact):
    """The teacher's outputs in shards, ``SPLIT.VIEW.NUMBER.safetensors``.

    VIEW is ``clean`` if the samples are not augmented. Facts: ``task`` (the teacher's), ``views``
    (count), ``seed`` (of the views), ``samples`` (a split's count), ``outputs`` (names), ``orders``
    (a learned split's ``digest_order``), ``device`` (``cpu, cuda`` if it went on with another),
    ``precision``; where samples of views are mixed ``mix`` (``kinds``, ``alpha``); where features
    are stored ``features`` (their width, by layer) and ``feature_bytes``, of all views together; of
    a teacher that only translates ``opaque``.
    """

    code: ClassVar[tuple[str, ...]] = ("task",)
    fetched_by_file: ClassVar[bool] = True

    @property
    def mixing(self) -> Mixing | None:
        """How the samples of its views are mixed; None if they are not."""
        return Mixing.from_facts(self.facts.get("mix"))

    @property
    def features(self) -> Mapping[str, int]:
        """The width of the stored features, by the teacher's layer."""
        widths: Mapping[str, int] = self.facts.get("features", {})
        return widths

    @property
    def why_opaque(self) -> str | None:
        """Why they have tokens and no probabilities; None if they have."""
        reason: str | None = self.facts.get("opaque")
        return reason

    def open_rows(
        self, split: str, view: int | None = None, *, first: bool = False
    ) -> dict[str, Rows]:
        """Map the outputs of one split in the order of its samples; logarithms of probabilities.

        ``first``: of a learned split only the first shard need be there, which has the first chunk.


        Raises StageError if there are none, if they are stored in another order, and if they are
        more files than this process may have open.
        """
        which = "clean" if view is None else str(view)
        number = "00000" if first else "*"
        fetch_files(self.root, f"{split}.{which}.{number}.safetensors")
        shards = map_shards(self.root, f"{split}.{which}")
        if not shards:
            raise StageError(f"{self.root} holds no answers to {split}, view {which}; label again")
        counts = [len(next(iter(shard.values()))) for shard in shards]
        samples = self.facts["samples"][split] if first else sum(counts)
        places = None if view is None else self.find_places(split, samples)
        return {name: Rows([shard[name] for shard in shards], places) for name in shards[0]}

    def find_places(self, split: str, samples: int) -> Integers:
        """Return where the answer to each sample of a learned split is stored.

        Raises StageError for answers of a version that stored them in another order, such as
        pinned ones: they would be paired with the wrong samples.
        """
        if self.facts.get("orders", {}).get(split) != digest_order(samples):
            raise StageError(
                f"the answers of {self.key[:12] or self.root} are stored in another order of the "
                "samples than this attar reads them in; remove `keep` from [answers], if it is "
                "there, and label again"
            )
        return find_places(samples)

    def read_split(self, split: str) -> dict[str, Array]:
        """Return the task's outputs of a clean split: float32 ``[samples, ...]``.

        Log-probabilities along tokens are left out: written out they are as wide as the vocabulary.
        """
        rows = self.open_rows(split)
        return {name: rows[name][:] for name in self.facts["outputs"]}

    def open_learned_rows(self, view: int) -> dict[str, Rows]:
        """Map the outputs that a student learns from in this view: train, and then transfer."""
        splits = [name for name in ("train", "transfer") if name in self.facts["samples"]]
        opened = [self.open_rows(split, view) for split in splits]
        return {name: join_rows([rows[name] for rows in opened]) for name in opened[0]}
