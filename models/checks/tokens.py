"""Checks of an output of tokens: what it declares, and its labels."""

from __future__ import annotations

import numpy as np

from attar.models.checks.calls import CheckedSplit, format_place
from attar.models.checks.first_view import make_first_view
from attar.models.generation import Decoding, Integers, Vocabulary, find_decoding, measure_lengths
from attar.models.task import Array, Output, Task
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError


def check_tokens(task: Task, name: str, output: Output) -> None:
    """Raises StageError unless it is the only output, a sequence, with its special tokens."""
    where = format_place(task, f"outputs[{name!r}]")
    if len(task.outputs) > 1:
        raise StageError(
            f"{where} holds tokens beside {len(task.outputs) - 1} other outputs; a task that "
            "generates has one output"
        )
    if len(output.axes) != 2 or not isinstance(output.axes[1], int) or output.axes[1] < 2:
        raise StageError(
            f"{where} holds tokens with the axes {output.axes}; they must be ('batch', LONGEST), "
            "the largest number of tokens"
        )
    special = {"begin": output.begin, "end": output.end, "pad": output.pad}
    outside = [
        f"{token} = {number}" for token, number in special.items() if not 0 <= number < output.size
    ]
    if outside or output.size < 4:
        raise StageError(
            f"{where} has size = {output.size} and "
            f"{', '.join(outside) or 'three special tokens'}; size is the number of tokens of the "
            "vocabulary, the special ones included"
        )
    if len(set(special.values())) < len(special):
        raise StageError(
            f"{where} has {special}; begin, end and pad must be three different tokens"
        )
    slope, offset = output.growth
    if slope < 0 or offset < 1:
        raise StageError(
            f"{where} has growth = {output.growth}; it must be a slope of at least 0 and an offset "
            "of at least 1"
        )


def check_token_labels(where: str, name: str, output: Output, labels: Array) -> None:
    """Raises StageError unless each row is tokens, one end token, and padding."""
    tokens = np.asarray(labels, np.int64)
    wrong = tokens[(tokens < 0) | (tokens >= output.size)]
    if wrong.size:
        raise StageError(
            f"{where} gives {name!r} the token {wrong[0]}, outside the {output.size} tokens of the "
            "vocabulary"
        )
    words = Vocabulary(output.size, output.begin, output.end, output.pad)
    row = find_wrong_row(tokens, words)
    if row is not None:
        raise StageError(
            f"{where} gives {name!r} in row {row} the tokens {tokens[row].tolist()}; a row must be "
            f"tokens, then the end token {output.end} once, then padding {output.pad}"
        )


def check_first_labels(task: Task, split: CheckedSplit) -> None:
    """Raises StageError if sequences to learn are longer than their sources allow."""
    decoding = find_decoding(task)
    target = None if decoding is None else task.outputs[decoding.output].target
    if decoding is not None and target is not None:
        first = make_first_view(task, split)
        check_label_lengths(split.where, decoding, first, target)


def check_label_lengths(where: str, decoding: Decoding, batch: ViewBatch, target: str) -> None:
    """Raises StageError for labels that are longer than their sources allow.

    Nothing generates them, so whoever learns them looks at each as it is read.
    """
    labels = np.asarray(batch.targets[target], np.int64)
    inputs = {name: array[: len(labels)] for name, array in batch.inputs.items()}
    limits = decoding.limit_lengths(inputs)
    lengths = measure_lengths(labels, decoding.vocabulary)
    too_long = np.flatnonzero(lengths > limits)
    if len(too_long):
        row = int(too_long[0])
        raise StageError(
            f"{where} gives {decoding.output!r} {len(too_long)} labels that are longer than their "
            f"sources allow, such as sample {batch.indices[row]} with {lengths[row]} tokens, at "
            f"most {limits[row]}; raise growth = {decoding.growth} of the output"
        )


def find_wrong_row(tokens: Integers, words: Vocabulary) -> int | None:
    """Return the first row that is not tokens, one end token, and padding; None if all are."""
    lengths = measure_lengths(tokens, words)
    places = np.arange(tokens.shape[1])
    inside = places < lengths[:, None]
    is_padding = tokens == words.pad
    is_right = ((tokens == words.end).sum(1) == 1) & (inside != is_padding).all(1)
    return None if is_right.all() else int(np.flatnonzero(~is_right)[0])


def find_malformed_row(tokens: Integers, limits: Integers, words: Vocabulary) -> str | None:
    """Return what is wrong with the first generated row that breaks the form; None if none does.

    A row holds tokens of the vocabulary, at most as many as its limit, and padding behind an end.
    """
    lengths = measure_lengths(tokens, words)
    behind = np.arange(tokens.shape[1]) >= lengths[:, None]
    reasons = {
        f"tokens outside the {words.size} of the vocabulary": (
            (tokens < 0) | (tokens >= words.size)
        ).any(1),
        "more tokens than its source allows": lengths > limits,
        "tokens behind its end": (behind & (tokens != words.pad)).any(1),
    }
    for reason, is_wrong in reasons.items():
        if is_wrong.any():
            row = int(is_wrong.argmax())
            return f"has {reason} in row {row}: {tokens[row].tolist()}"
    return None
