"""Sequence labels: a teacher's tokens, and its log-probabilities of the next token along a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from attar.models.checks.tokens import check_label_lengths
from attar.models.generation import (
    Decoding,
    Floats,
    Integers,
    follow,
    generate,
    generate_with_beam,
    measure_lengths,
    normalize_logits,
    require_decoding,
)
from attar.models.preprocess import apply
from attar.models.task import Array, Output, Predict, Task
from attar.models.top_answers import TOP
from attar.models.translation_scores import compute_chrf, count_chrf
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.stages.label.shards import Shard, ShardBuilder

SEQUENCE_TOP = 32
"""Log-probabilities that are stored of each token, unless a recipe says otherwise."""
SCORE_TOLERANCE = 0.02
"""How far a beam's score, a mean over tokens, may be from that of the same path followed again."""


@dataclass(frozen=True)
class SequenceLabels:
    """What a teacher that generates tokens answers, and what of it is stored."""

    along: Literal["teacher", "labels"] = "teacher"
    beam: int = 1
    hypothesis: Literal["best", "closest"] = "best"
    top: int | None = SEQUENCE_TOP
    """Log-probabilities to store of each token; None: the teacher has none."""

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 2:
            raise StageError(
                f"top = {self.top} stores {self.top} token of each distribution, which correlates "
                "with nothing; store at least 2, or leave top out for "
                f"{SEQUENCE_TOP}"
            )
        if self.hypothesis == "closest" and self.beam == 1:
            raise StageError(
                "hypothesis = 'closest' chooses among those of a beam, and beam = 1 has one; set "
                "beam = 4 in [answers]"
            )
        if self.along == "labels" and self.beam > 1:
            raise StageError(
                f"along = 'labels' follows the labels, and beam = {self.beam} would search for the "
                "teacher's own sequences; leave one of them out of [answers]"
            )

    @property
    def reads_labels(self) -> bool:
        """Whether the stored path of a view depends on the labels."""
        return self.along == "labels" or (self.beam > 1 and self.hypothesis == "closest")

    def describe(self, task: Task, shard: Shard) -> str:
        """Return what decides a shard beside its inputs and labels.

        The tokens of a teacher that only translates are made by the output's tokenizer, and the
        closest of a beam is found among texts that it makes: then its file decides, too.
        """
        is_learned = shard.view is not None
        described = f" {self if is_learned else self.top}"
        if self.top is None or (is_learned and self.hypothesis == "closest"):
            steps = task.postprocess.get(require_decoding(task).output, ())
            described += f" {[step.content() for step in steps]}"
        return described

    def make_builders(self, shard: Shard, decoding: Decoding, output: Output) -> list[ShardBuilder]:
        """Return builders of the path, and of the log-probabilities along it, if there are any.

        Raises StageError for a beam that is wider than the vocabulary.
        """
        words = decoding.vocabulary
        if self.beam > words.size:
            raise StageError(
                f"beam = {self.beam} is more than the {words.size} tokens of the vocabulary; set a "
                "smaller one in [answers]"
            )
        tokens = ShardBuilder(decoding.output, output, np.min_scalar_type(words.size - 1))
        if self.top is None:
            return [tokens]
        distributions = Output(("batch", "tokens", words.size), kind="logits")
        return [tokens, ShardBuilder(decoding.output + TOP, distributions, shard.dtype, self.top)]

    def answer(
        self, task: Task, graphs: Mapping[str, Predict], batch: ViewBatch, shard: Shard
    ) -> dict[str, Array]:
        """Return tokens ``[N, longest]`` and log-probabilities ``[N, T, size]`` along them, if the
        teacher has any.

        Splits that are not learned from are always answered with the teacher's most likely tokens.
        """
        decoding = require_decoding(task)
        scores = None
        if shard.view is None:
            path = generate(graphs, batch.inputs, decoding)
        elif self.along == "labels":
            path = read_labels(task, decoding, batch)
        else:
            path, scores = self.generate(task, graphs, batch, decoding)
        if self.top is None:
            return {decoding.output: path}
        longest = max(1, int(measure_lengths(path, decoding.vocabulary).max()))
        steps = follow(graphs, batch.inputs, path[:, :longest], decoding)
        logs: Floats = normalize_logits(np.stack(list(steps), 1))  # (N, T, size)
        if scores is not None:
            check_scores(path[:, :longest], logs, scores, decoding)
        return {decoding.output: path, decoding.output + TOP: logs}

    def generate(
        self, task: Task, graphs: Mapping[str, Predict], batch: ViewBatch, decoding: Decoding
    ) -> tuple[Integers, Floats | None]:
        """Return the teacher's own tokens, and of a beam their scores."""
        if self.beam == 1:
            return generate(graphs, batch.inputs, decoding), None
        beams, scores = generate_with_beam(graphs, batch.inputs, decoding, self.beam)
        if self.hypothesis == "best":
            return beams[:, 0], scores[:, 0]
        rows, ranks = np.arange(len(beams)), rank_closest(task, beams, batch, decoding)
        return beams[rows, ranks], scores[rows, ranks]


def check_scores(path: Integers, logs: Floats, scores: Floats, decoding: Decoding) -> None:
    """Check that a beam's scores are those of its paths when they are followed from their start.

    They are not if a hypothesis went on with the state of another one. Raises StageError.
    """
    words = decoding.vocabulary
    lengths, has_end = measure_lengths(path, words), (path == words.end).any(1)
    own = np.arange(path.shape[1]) < lengths[:, None]
    chosen = np.take_along_axis(logs, path[:, :, None], 2)[..., 0]
    followed = np.where(own, chosen, 0).sum(1) / np.maximum(lengths, 1)
    apart = float(np.abs(followed - scores)[has_end].max(initial=0))
    if not apart <= SCORE_TOLERANCE:
        raise StageError(
            f"the beam gives a sequence a score that is {apart:.2g} from its own, allowed "
            f"{SCORE_TOLERANCE:g}: its hypotheses do not keep their states; every state of the "
            "teacher's start and step must have the batch as its first axis, or set beam = 1 in "
            "[answers]"
        )


def rank_closest(task: Task, beams: Integers, batch: ViewBatch, decoding: Decoding) -> Integers:
    """Return of each sample's hypotheses the place of the one that is closest to its label.

    The first of equals is the most likely. A sample without a label keeps its most likely one.
    """
    labelled, samples = batch.labelled, len(beams)
    if not batch.targets or not labelled:
        return np.zeros(samples, np.int64)
    scores = np.full((samples, beams.shape[1]), -np.inf)
    scores[:, 0] = 0
    for rank in range(beams.shape[1]):
        scores[:labelled, rank] = score_samples(task, beams[:labelled, rank], batch, decoding)
    ranks: Integers = scores.argmax(1)
    return ranks


def score_samples(
    task: Task, tokens: Integers, batch: ViewBatch, decoding: Decoding
) -> list[float]:
    """Return how close each sequence is to its label: chrF of texts, else the task's score.

    BLEU says little of one sentence: most have no four words in common with their label.
    """
    name = decoding.output
    steps = {name: task.postprocess[name]} if name in task.postprocess else {}
    if not steps:
        statistics = task.score({name: tokens}, batch.targets)
        return [task.aggregate(row[None]) for row in statistics]
    labels = batch.targets[str(task.outputs[name].target)]
    texts, references = (apply(steps, {name: side})[name].tolist() for side in (tokens, labels))
    return [compute_chrf(row[None]) for row in count_chrf(texts, references)]


def read_labels(task: Task, decoding: Decoding, batch: ViewBatch) -> Integers:
    """Return the labels as paths.

    Raises StageError if samples have none, and for one that is longer than its source allows.
    """
    target = str(task.outputs[decoding.output].target)
    if target not in batch.targets or batch.labelled < len(batch.indices):
        raise StageError(
            "along = 'labels' follows the labels, and some samples have none; set "
            "along = 'teacher' in [answers]"
        )
    check_label_lengths(f"{type(task).__name__}.split('train')", decoding, batch, target)
    return np.asarray(batch.targets[target], np.int64)
