"""What a student of tokens minimizes: along the teacher's path, along the labels, or along both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attar.engines.runtimes.torch import PREFIX
from attar.models.epoch import Epoch, Source
from attar.models.generation import Integers, generate, measure_lengths, shift_path
from attar.models.task import Array, Output, Task
from attar.models.tensors import TensorSpec
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.loss_settings import Kd, Mse
from attar.stages.distill.sequence_loss_settings import SequenceLoss, WordLoss
from attar.stages.distill.sequence_objective import SequenceObjective
from attar.stages.learning.lesson import Lesson
from attar.stages.learning.objective import LabelObjective
from tests.support.stages.labelling import label_with
from tests.support.stages.training import make_out, measure_loss
from tests.support.tasks.sequences import (
    DECODING,
    LABELLED_REVERSAL,
    LONGEST,
    SAMPLES,
    SIZE,
    TASK,
    WORDS,
    LabelledReversal,
    Reversal,
    change_task,
    store_translator,
)

TOP = 3
LOSSES = (WordLoss(), SequenceLoss(weight=0.5))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return store_translator(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, teacher: Weights) -> Answers:
    return label_with(teacher, make_out(tmp_path_factory.mktemp("answers")), views=1, top=TOP)


@pytest.fixture(scope="module")
def along_labels(tmp_path_factory: pytest.TempPathFactory, teacher: Weights) -> Answers:
    settings = {"task": LABELLED_REVERSAL, "views": 1, "top": TOP, "along": "labels"}
    return label_with(teacher, make_out(tmp_path_factory.mktemp("labels")), **settings)


def make_batch(task: Task = TASK, accumulate: int = 1) -> ViewBatch:
    """The first batch of an epoch: some samples of transfer, behind those with labels."""
    transfer = task.split("transfer") if task.transfer else None
    epoch = Epoch(Source(task, task.split("train"), transfer), 24, 0, accumulate=accumulate)
    return next(epoch.iterate_view(0))


def compute(objective: SequenceObjective, batch: ViewBatch, task: Task = TASK) -> tuple[float, Lesson[Array], Tensor]:
    """Return the loss of random logits, what the network read, and the logits."""
    objective.check_task(task)
    read = objective.read_lesson(task, batch, 0)
    rows, places = read.inputs[PREFIX].shape
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(rows, places, SIZE, generator=generator)
    return measure_loss(objective, task, {"words": logits}, batch, 0).item(), read, logits


def average(logits: Tensor, path: Integers, weigh: Any) -> float:
    """Return the mean over all tokens of a path of ``weigh(log-probabilities, row, place)``."""
    logs = torch.log_softmax(logits, 2).numpy()
    lengths = measure_lengths(path, WORDS)
    terms = [weigh(logs[row, place], row, place) for row in range(len(path)) for place in range(lengths[row])]
    return float(np.mean(terms))


def label_loss(logits: Tensor, batch: ViewBatch) -> float:
    labels = np.asarray(batch.targets["words"], np.int64)
    return average(logits, labels, lambda logs, row, place: -logs[labels[row, place]])


def follow_teacher(teacher: Weights, batch: ViewBatch, path: Integers) -> Any:
    """Return the teacher's log-probabilities ``[N, T, size]`` along a path, by its ``forward``."""
    prefix = torch.from_numpy(shift_path(path, WORDS))
    with torch.no_grad():
        logits = teacher.load()(torch.from_numpy(np.asarray(batch.inputs["source"])), prefix)
    return torch.log_softmax(logits, 2).numpy()


def word_loss(logits: Tensor, path: Integers, expected: Any) -> float:
    """Return KL(teacher || student) over the teacher's three largest and the rest."""

    def weigh(logs: Any, row: int, place: int) -> float:
        p, q = np.exp(expected[row, place]), np.exp(logs)
        top = np.argsort(p)[-TOP:]
        p, q = (np.append(side[top], 1 - side[top].sum()) for side in (p, q))
        return float((p * np.log(p / q)).sum())

    return average(logits, path, weigh)


def say(teacher: Weights, batch: ViewBatch) -> Integers:
    with teacher.open() as predict:
        return generate(predict.graphs, batch.inputs, DECODING)


def own_loss(teacher: Weights, batch: ViewBatch, logits: Tensor) -> float:
    """Return L_KD along the teacher's own path, from the teacher itself."""
    path = say(teacher, batch)
    tokens = average(logits, path, lambda logs, row, place: -logs[path[row, place]])
    return word_loss(logits, path, follow_teacher(teacher, batch, path)) + 0.5 * tokens


def test_along_the_teachers_path_alone(answers: Answers, teacher: Weights) -> None:
    batch = make_batch()
    assert 0 < batch.labelled < len(batch.indices)
    loss, read, logits = compute(SequenceObjective(1.0, LOSSES, answers), batch)
    path = say(teacher, batch)
    prefix = np.asarray(read.inputs[PREFIX])
    assert prefix.tolist() == shift_path(path, WORDS)[:, : prefix.shape[1]].tolist()
    assert loss == pytest.approx(own_loss(teacher, batch, logits), rel=2e-3)


def test_along_the_labels_alone(answers: Answers) -> None:
    batch = make_batch()
    loss, read, logits = compute(SequenceObjective(0.0, LOSSES, answers), batch)
    assert len(read.inputs["source"]) == len(logits) == batch.labelled
    assert loss == pytest.approx(label_loss(logits, batch), rel=1e-5)


def test_along_both_each_sample_is_read_twice_and_one_without_a_label_once(answers: Answers, teacher: Weights) -> None:
    batch = make_batch()
    loss, read, logits = compute(SequenceObjective(0.7, LOSSES, answers), batch)
    samples = len(batch.indices)
    assert len(read.inputs["source"]) == samples + batch.labelled
    sources = np.asarray(batch.inputs["source"])
    assert np.asarray(read.inputs["source"]).tolist() == [*sources.tolist(), *sources[: batch.labelled].tolist()]
    expected = 0.7 * own_loss(teacher, batch, logits[:samples])
    expected += 0.3 * label_loss(logits[samples:], batch)
    assert loss == pytest.approx(expected, rel=2e-3)


def test_a_batch_without_labels_learns_from_the_teacher_alone(answers: Answers, teacher: Weights) -> None:
    whole = make_batch()
    batch = whole.take(np.arange(whole.labelled, len(whole.indices)))
    loss, _, logits = compute(SequenceObjective(0.7, LOSSES, answers), batch)
    assert loss == pytest.approx(0.7 * own_loss(teacher, batch, logits), rel=2e-3)


def test_along_labels_the_teacher_is_followed_where_the_label_leads(along_labels: Answers, teacher: Weights) -> None:
    task = LabelledReversal()
    batch = make_batch(task)
    loss, _, logits = compute(SequenceObjective(1.0, (WordLoss(),), along_labels), batch, task)
    labels = np.asarray(batch.targets["words"], np.int64)
    expected = word_loss(logits, labels, follow_teacher(teacher, batch, labels))
    assert loss == pytest.approx(expected, rel=2e-3)


def measure_by_sample(objective: SequenceObjective | LabelObjective, batch: ViewBatch, task: Task) -> float:
    """Return the loss of random logits that belong to the sample and the path, in whatever batch these are."""
    logits = torch.randn(2, 48, LONGEST, SIZE, generator=torch.Generator().manual_seed(3))
    read = objective.read_lesson(task, batch, 0)
    rows, places = read.inputs[PREFIX].shape
    wanted = [*((0, index) for index in batch.indices.tolist()), *((1, index) for index in batch.indices.tolist())][:rows]
    answered = torch.stack([logits[path, index, :places] for path, index in wanted])
    return measure_loss(objective, task, {"words": answered}, batch, 0).item()


ONE_SIZE = {"source": TensorSpec("int64", ("batch", 5), high=SIZE, pad=0)}


@pytest.mark.parametrize("share", [1.0, 0.6, None])
@pytest.mark.parametrize("inputs", [TASK.inputs, ONE_SIZE])
def test_the_mean_over_the_parts_of_a_step_is_that_over_all_tokens(
    answers: Answers, share: float | None, inputs: dict[str, TensorSpec]
) -> None:
    """Parts of three passes hold other numbers of tokens; ``None``: a teacher, which learns from labels alone."""
    task = change_task(LabelledReversal if share is None else Reversal, inputs=inputs)
    objective = LabelObjective() if share is None else SequenceObjective(share, LOSSES, answers)
    whole = make_batch(task, accumulate=3)
    parts = [whole.take(np.arange(number, len(whole.indices), 3)) for number in range(3)]
    losses = [measure_by_sample(objective, part, task) for part in parts]
    step = measure_by_sample(objective, replace(whole, step=None), task)
    assert np.mean(losses) == pytest.approx(step, rel=1e-5)
    alike = np.mean([measure_by_sample(objective, replace(part, step=None), task) for part in parts])
    assert alike != pytest.approx(step, rel=1e-4)


def test_padding_has_no_gradient(answers: Answers) -> None:
    batch, objective = make_batch(), SequenceObjective(0.5, LOSSES, answers)
    rows, places = objective.read_lesson(TASK, batch, 0).inputs[PREFIX].shape
    logits = torch.zeros(rows, places + 2, SIZE, requires_grad=True)
    (gradient,) = torch.autograd.grad(measure_loss(objective, TASK, {"words": logits}, batch, 0), logits)
    read = objective.read_paths(TASK, batch, 0, DECODING)
    lengths = np.concatenate([measure_lengths(path, WORDS) for path in read.values()])
    assert (gradient.abs().sum(2) > 0).sum(1).tolist() == lengths.tolist()


def test_transfer_is_learned_where_the_teacher_has_a_share(answers: Answers) -> None:
    transfer = SequenceObjective(1.0, LOSSES, answers).find_transfer(TASK)
    assert transfer is not None
    assert len(transfer) == SAMPLES["transfer"]
    assert SequenceObjective(0.0, LOSSES, answers).find_transfer(TASK) is None
    assert SequenceObjective(1.0, LOSSES, answers).find_transfer(LabelledReversal()) is None


# ---- what is refused


@pytest.mark.parametrize("loss", [Kd(), Mse()])
def test_losses_of_other_outputs(answers: Answers, loss: Any) -> None:
    with pytest.raises(StageError, match=loss.kind):
        SequenceObjective(1.0, (WordLoss(), loss), answers).check_task(TASK)


def test_a_distiller(answers: Answers) -> None:
    with pytest.raises(StageError, match="distiller"):
        SequenceObjective(1.0, LOSSES, answers, DistillerSettings()).check_task(TASK)


def test_the_teachers_sequences_are_not_stored_along_labels(along_labels: Answers) -> None:
    with pytest.raises(StageError, match="along = 'teacher'"):
        SequenceObjective(1.0, LOSSES, along_labels).check_task(LabelledReversal())


def test_labels_that_are_not_there(answers: Answers) -> None:
    output = {"words": Output(("batch", LONGEST), kind="tokens", size=SIZE)}
    unlabelled = change_task(outputs=output)
    with pytest.raises(StageError, match="target"):
        SequenceObjective(0.5, LOSSES, answers).check_task(unlabelled)


def test_answers_to_other_samples(answers: Answers) -> None:
    with pytest.raises(StageError, match="label again"):
        SequenceObjective(1.0, LOSSES, answers).check_task(LabelledReversal())
