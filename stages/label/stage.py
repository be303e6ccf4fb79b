"""Label: the teacher answers every view that a student will see, once for all runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from errno import EMLINK, ENOTSUP, EPERM, EXDEV
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from attar.engines.host_memory import keep_freed_memory
from attar.models.checks import agreement
from attar.models.checks import task as task_check
from attar.models.generation import find_decoding
from attar.models.mixing import Mixing, MixKind, check_mixing
from attar.models.sample_order import CHUNK, digest_order
from attar.models.task import Predictor, Task, load_task
from attar.pipeline import team
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import (
    CodeName,
    Device,
    Facts,
    FloatPrecision,
    SettingMark,
    Stage,
    open_scratch,
)
from attar.pipeline.keys import data
from attar.pipeline.keys import deciders as keys
from attar.pipeline.store.file_cache import is_intact, open_file_cache
from attar.stages.artifacts import Answers, Model, TextProgram, Weights
from attar.stages.label.features import check_features, measure_features
from attar.stages.label.labelling import LabelProgress, ShardNote, label_shards
from attar.stages.label.sequence_labels import SEQUENCE_TOP, SequenceLabels
from attar.stages.label.shard_labeller import ShardLabeller
from attar.stages.label.shards import Shard, list_shards

LINK_ERRNOS = (EXDEV, EPERM, ENOTSUP, EMLINK)
"""The errors of file systems without hard links, or with too few."""


class Label(Stage[Answers]):
    """Stores the teacher's outputs: train and transfer in ``views`` augmentations (float16), and
    the other splits without augmentation (float32).

    Shards are cached for later runs of the same teacher: with more views it only answers the new
    ones, with more samples only the new ones and those of the split's last block, which is up to
    half of it (see ``models.sample_order``). An interruption loses one shard. Several processes
    divide the shards among them; a shard has the same bytes in whichever process it is made.
    """

    distributed: ClassVar[bool] = True
    incremental: ClassVar[tuple[str, ...]] = (
        "views",
        "view_seed",
        "top",
        "mix",
        "mix_alpha",
        "features",
        "data",
    )

    task: CodeName
    """The task that prepares the teacher's inputs: the teacher section's own one if it has one."""
    views: int = Field(4, ge=1)
    """Augmentations of each training sample that the teacher answers; each epoch reads one."""
    view_seed: int = Field(0, ge=0)
    """Seed of the augmentations. The seed of the training does not change answers."""
    mix: tuple[MixKind, ...] = ()
    """How the samples of views are mixed in pairs: ``mixup``, ``cutmix``, or both, of which each
    sample has one. The teacher answers the mixed inputs (Beyer et al. 2022, arXiv:2106.05237)."""
    mix_alpha: float = Field(1.0, gt=0)
    """The share of a mixed sample is drawn from Beta(mix_alpha, mix_alpha)."""
    top: int = Field(0, ge=0)
    """Number of a view's largest logits to store, with the others' common share; 0: all. Of an
    output of tokens every split is stored so; 0: 32."""
    features: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Layers of the teacher, by their names in ``named_modules``, whose outputs are stored beside
    the answers to views: one row a sample, the mean over its positions, for losses of features
    that are ``pooled``."""
    along: Literal["teacher", "labels"] = "teacher"
    """Of an output of tokens: whose tokens the teacher's distributions of views are about."""
    beam: int = Field(1, ge=1)
    """Of an output of tokens: hypotheses of a beam search; 1: the likeliest token at each step."""
    hypothesis: Literal["best", "closest"] = "best"
    """Of a beam's hypotheses: the likeliest one, or the one that is closest to the label."""
    precision: FloatPrecision = "fp32"
    """What a teacher in PyTorch multiplies in; bf16 and fp16 are autocast's."""
    batch: Annotated[int | None, Field(ge=1, le=CHUNK), SettingMark("undecided")] = None
    """Samples that the teacher answers at once; by default 128 on a CPU, on a GPU as many of 512 as
    its memory holds, and 64 that differ in length. It changes answers by rounding alone, and does
    not count in the key."""
    workers: Annotated[int | None, Field(ge=0), SettingMark("undecided")] = None
    """Processes, for each process that labels, that prepare batches beside the teacher; with 0 it
    prepares them itself. By default up to 8, one fewer than the cores, if preparing takes long
    enough to be worth it."""
    device: Device = "auto"

    @field_validator("features")
    @classmethod
    def _check_features(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(layers)) < len(layers):
            raise ValueError(f"features = {list(layers)} names a layer twice; name each once")
        return layers

    def run(self, out: Path, *, teacher: Model) -> Facts:
        task = load_task(self.task)
        task_check.check_task_once(task)
        splits = {name: task.split(name) for name in task_check.list_splits(task)}
        samples = {name: len(split) for name, split in splits.items()}
        shards, work = list_shards(samples, self.views), open_scratch(out)
        cache, member = open_file_cache(out), team.get_team()
        check_teacher_inputs(task, teacher)
        check_features(task, teacher, self.features)
        mixing = Mixing(self.mix, self.mix_alpha) if self.mix else None
        if mixing is not None:
            check_mixing(task, mixing)
        device = teacher.find_device(self.device)
        with keep_freed_memory(), self.open_teacher(teacher) as predict:
            data_digest = member.broadcast(digest_task_data(task) if member.leads else "")
            settings = (self.view_seed, self.top, device, data_digest)
            sequences, reads = self.describe_sequences(task, teacher), teacher.adapt_task(task)
            features = measure_features(task, predict, self.features)
            labeller = ShardLabeller(
                reads, splits, predict, cache, *settings, sequences, mixing, self.batch, features
            )
            own_shards = shards[member.rank :: member.world]
            missing = find_missing_shards(own_shards, work, cache.folder)
            progress = LabelProgress(shards, samples, work)
            label_shards(labeller, missing, work, progress, self.workers)
        member.barrier()
        devices = link_shards(shards, work, cache.folder, out) if member.leads else [device]
        learned = [name for name in ("train", "transfer") if name in samples]
        return {
            "task": self.task,
            "views": self.views,
            "seed": self.view_seed,
            "samples": samples,
            "orders": {name: digest_order(samples[name]) for name in learned},
            "outputs": list(task.outputs),
            **self.describe_choices(task),
            **features.build_facts(samples, self.views),
            **({"opaque": teacher.why_opaque} if isinstance(teacher, TextProgram) else {}),
            "device": ", ".join(devices),
            "precision": self.precision,
        }

    def describe_choices(self, task: Task) -> Facts:
        """Return the facts that answers have of mixed samples, and of tokens."""
        facts: dict[str, Any] = {}
        if self.mix:
            facts["mix"] = {"kinds": list(self.mix), "alpha": self.mix_alpha}
        if find_decoding(task):
            facts |= {"along": self.along, "beam": self.beam}
        return facts

    def describe_sequences(self, task: Task, teacher: Model) -> SequenceLabels:
        """Return how a teacher that generates answers.

        Raises StageError for ``top = 1``, and for what a teacher that only translates cannot tell.
        """
        if find_decoding(task) is None:
            return SequenceLabels()
        if isinstance(teacher, TextProgram):
            given = (self.top, self.along, self.beam, self.hypothesis)
            if given != (0, "teacher", 1, "best"):
                raise StageError(
                    f"{teacher.why_opaque}: it has one translation of each text, and no "
                    "probabilities; leave top, along, beam and hypothesis out of [answers]"
                )
            return SequenceLabels(top=None)
        return SequenceLabels(self.along, self.beam, self.hypothesis, self.top or SEQUENCE_TOP)

    def open_teacher(self, teacher: Model) -> AbstractContextManager[Predictor]:
        """Open the teacher on the device that is asked for.

        Raises StageError if what is no network in PyTorch is to be computed in another precision.
        """
        if isinstance(teacher, Weights):
            return teacher.open(device=self.device, precision=self.precision, layers=self.features)
        if self.precision != "fp32":
            raise StageError(
                f"[answers] has precision = {self.precision!r}, and the teacher is no network in "
                "PyTorch, but computed as it is written; leave precision out"
            )
        return teacher.open(device=self.device)


def check_teacher_inputs(task: Task, teacher: Model) -> None:
    """Raises StageError if the teacher was trained on other inputs than the task's."""
    if not agreement.same_inputs(teacher.adapt_task(task), teacher.load_task()):
        raise StageError(
            f"the teacher reads the inputs of {teacher.facts['task']}, and would get those of "
            f"{type(task).__name__}; write task = {teacher.facts['task']!r} in [teacher]"
        )


def digest_task_data(task: Task) -> str:
    """Return the digest of the files and versions that the task's splits come from."""
    return keys.compute_json_digest(data.describe_content(data.inspect_data(task.data())))


def find_missing_shards(shards: Sequence[Shard], work: Path, folder: Path) -> list[Shard]:
    """Return the shards without a note in ``work`` that names an intact file in ``folder``."""
    return [shard for shard in shards if not has_file(work / shard.name, folder)]


def has_file(note: Path, folder: Path) -> bool:
    """Whether the note exists and names an intact file in ``folder``."""
    return note.exists() and is_intact(folder / ShardNote.read(note).file)


def link_shards(shards: Sequence[Shard], work: Path, folder: Path, out: Path) -> list[str]:
    """Give every shard its name in the artifact, and return the devices that they were made on:
    several if an interrupted labelling went on with another."""
    notes = {shard.name: ShardNote.read(work / shard.name) for shard in shards}
    for name, note in notes.items():
        link_file(folder / note.file, out / name)
    return sorted({note.device for note in notes.values()})


def link_file(source: Path, target: Path) -> None:
    """Hard-link the file, or copy it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in LINK_ERRNOS:
            raise
        shutil.copyfile(source, target)
