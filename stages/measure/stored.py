"""Stored: whether the stored answers are those of the teacher that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import numpy as np

from attar.models import views
from attar.models.features import answer_with_features, name_features
from attar.models.generation import Decoding, Integers, find_decoding, generate
from attar.models.probabilities import to_logits
from attar.models.task import Predict, Predictor, SplitName, Task
from attar.models.top_answers import TOP, TopAnswers, describe_following
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Device
from attar.proof.checks.sizes import compute_difference, count_other_sequences
from attar.stages.artifacts import Answers, Model, Weights

ROWS = 32
"""Samples of every view that are asked for again: other answers differ from the first on."""
TOLERANCES: Mapping[str, float] = {"fp32": 1e-2, "fp16": 1e-2, "bf16": 4e-2}
"""Of the largest magnitude, by the precision of the answers: float16, in which they are stored,
keeps three digits, and another device or batch rounds otherwise; bfloat16 keeps two."""
STALE = "`attar show RECIPE` names the answers in the store, delete their folder and label again"
"""What to do about answers that are another teacher's."""
LIKELIER = 10
"""By so many tolerances more a token's log-probability shows that the teacher would have said it
instead."""


def check_answers(task: Task, teacher: Model, answers: Answers, device: Device = "cpu") -> None:
    """Ask the teacher again for a few samples of the test split and of every learned view.

    ``task`` is what the teacher reads. Raises StageError if an answer differs from the stored one.
    """
    kept: list[tuple[SplitName, int | None]] = [
        ("test", None),
        *(("train", view) for view in range(answers.facts["views"])),
    ]
    kept += [("transfer", view) for view in range(answers.facts["views"]) if task.transfer]
    with open_teacher(teacher, answers, device) as predictor:
        for split, view in kept:
            compare_view(task, predictor.graphs, answers, split, view)


def open_teacher(
    teacher: Model, answers: Answers, device: Device
) -> AbstractContextManager[Predictor]:
    """Open the teacher in the precision in which it answered, with the layers that are stored."""
    if not isinstance(teacher, Weights):
        return teacher.open(device=device)
    precision = answers.facts.get("precision", "fp32")
    return teacher.open(device=device, precision=precision, layers=list(answers.features))


def compare_view(
    task: Task,
    graphs: Mapping[str, Predict],
    answers: Answers,
    split: SplitName,
    view: int | None,
) -> None:
    if decoding := find_decoding(task):
        compare_sequence_view(task, decoding, graphs, answers, split, view)
        return
    stored = answers.open_rows(split, view, first=view is not None)
    seen = take_first_samples(task, answers, split, view)
    live = answer_with_features(task, graphs, seen.inputs, list(answers.features))
    tolerance = find_tolerance(answers)
    for name, output in task.outputs.items():
        kept, of = stored[name][seen.indices], to_logits(output.kind, live[name])
        if stored[name].partial:
            of = np.where(
                kept > kept.min(-1, keepdims=True), of, kept
            )  # the others share one value, the least
        apart = compute_difference(kept, of) if kept.shape == of.shape else np.inf
        check_difference(apart, name, split, view, tolerance)
    for name in map(name_features, answers.features if view is not None else ()):
        apart = compute_difference(stored[name][seen.indices], live[name])
        check_difference(apart, name, split, view, tolerance)


def find_tolerance(answers: Answers) -> float:
    """Return how far an answer may be from the stored one."""
    return TOLERANCES[answers.facts.get("precision", "fp32")]


def compare_sequence_view(
    task: Task,
    decoding: Decoding,
    graphs: Mapping[str, Predict],
    answers: Answers,
    split: SplitName,
    view: int | None,
) -> None:
    """Follow the stored paths again: the teacher's next tokens must be those that are stored.

    A teacher that only translates is asked for its translations again.
    """
    stored = answers.open_rows(split, view, first=view is not None)
    seen = take_first_samples(task, answers, split, view)
    path = stored[decoding.output][seen.indices].astype(np.int64)
    if answers.why_opaque:
        check_translations(path, generate(graphs, seen.inputs, decoding), split, view)
        return
    top = stored[decoding.output + TOP].read_top(seen.indices)
    live = describe_following(graphs, seen.inputs, path, top, decoding)
    known = top.is_known
    apart = compute_difference(top.values[known], live[known][:, : top.values.shape[2]])
    tolerance = find_tolerance(answers)
    check_difference(apart, decoding.output, split, view, tolerance)
    if view is None or answers.facts["along"] == "teacher":
        beam = 1 if view is None else int(answers.facts.get("beam", 1))
        check_path(path, top, beam, format_view(split, view), LIKELIER * tolerance)


def check_translations(
    stored: Integers, live: Integers, split: SplitName, view: int | None
) -> None:
    """Raises StageError if a teacher that only translates says something else than is stored."""
    others = count_other_sequences(stored, live)
    if others:
        raise StageError(
            f"the stored answers are not this teacher's: it translates {others} of {len(stored)} "
            f"texts of {format_view(split, view)} otherwise now; a translation must be the same "
            f"each time. {STALE}"
        )


def check_path(path: Integers, top: TopAnswers, beam: int, place: str, likelier: float) -> None:
    """Check that each token is one of the ``beam`` that the teacher finds most likely there.

    A token counts as likelier by at least ``likelier`` in its log-probability. No hypothesis of a
    beam search goes on with another one. Raises StageError for a path that is not the teacher's
    own, such as the labels.
    """
    is_token = top.indices == path[:, : top.values.shape[1], None]
    own = np.where(is_token, top.values, -np.inf).max(-1, keepdims=True)
    ahead = (top.values > own + likelier).sum(-1)
    count = int((ahead[top.is_known] >= beam).sum())
    if count:
        raise StageError(
            f"the stored sequences of {place} are not this teacher's own: it would have said "
            f"another token at {count} of {int(top.is_known.sum())} places; if they are the "
            "labels, set along = 'labels' in [answers] and label again"
        )


def take_first_samples(
    task: Task, answers: Answers, split: SplitName, view: int | None
) -> ViewBatch:
    seed, mixing = answers.facts["seed"], answers.mixing
    seen = views.make_chunk(task, task.split(split), 0, seed=seed, view=view, mixing=mixing)
    most = task.ranges.get("batch", (1, ROWS))[1]
    return seen.take(np.arange(min(ROWS, most, len(seen.indices))))


def check_difference(
    apart: float, name: str, split: SplitName, view: int | None, tolerance: float
) -> None:
    """Raises StageError for a difference that no rounding explains."""
    if not apart <= tolerance:
        raise StageError(
            f"the stored answers are not this teacher's: {name!r} of {format_view(split, view)} "
            f"is off by {apart:.2g} of its magnitude, allowed {tolerance:g}; {STALE}"
        )


def format_view(split: SplitName, view: int | None) -> str:
    return split if view is None else f"{split}, view {view}"
