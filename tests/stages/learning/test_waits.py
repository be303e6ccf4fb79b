"""A step of training waits for nothing that a GPU computes: what it reads is sent there before, from pinned memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import PartialState
from torch import nn

from attar.engines.runtimes.torch import build_network
from attar.models.generation import Integers
from attar.models.task import Array, Task, load_task
from attar.models.top_answers import TOP, TopAnswers
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.feature_loss_settings import (
    AnyLoss,
    Attention,
    AttentionRelations,
    FeatureLossSettings,
    HiddenStates,
    Hint,
    Rkd,
    Similarity,
)
from attar.stages.distill.loss_settings import (
    BinaryKd,
    Cosine,
    Dist,
    Dkd,
    Kd,
    LabelPearson,
    LogitPearson,
    Mse,
    Relations,
)
from attar.stages.distill.objective import DistillationObjective
from attar.stages.distill.sequence_loss_settings import SequenceLoss, TopPearsonLoss, WordLoss
from attar.stages.distill.sequence_objective import SequenceObjective
from attar.stages.learning.compute import open_compute
from attar.stages.learning.loop import RecordedViews
from attar.stages.learning.loss_watch import READ_STEPS, LossWatch
from attar.stages.learning.objective import LabelObjective, Objective
from attar.stages.learning.training import Training
from attar.stages.teach.stage import Teach
from tests.support.engines.played_gpu import PLAYED, PlayedGpu, play_gpu
from tests.support.tasks import sequences, smoke

WORDS, TEXT = "tests.support.tasks.ragged_words:RaggedWords", "tests.support.tasks.ragged_words:transformer"
PIXELS, DENSE = "attar.models.tasks.pixels:Pixels", "attar.models.networks.pixels:dilated"
ATTRIBUTES = "attar.models.tasks.attributes:Attributes"
VECTORS, BAG = "tests.support.tasks.embedding_task:Texts", "tests.support.tasks.embedding_task:student"
NARROW = {"width": 2}
STAGE = "stages.1"


@dataclass
class Drawn:
    """Answers that are drawn: rows of every sample, by output."""

    task: Task
    facts: dict[str, Any] = field(default_factory=lambda: {"views": 1, "along": "teacher"})

    def open_learned_rows(self, view: int) -> Mapping[str, Any]:
        samples = len(self.task.split("train")) + (len(self.task.split("transfer")) if self.task.transfer else 0)
        generator = np.random.default_rng(view)
        rows: dict[str, Array] = {}
        for name, output in self.task.outputs.items():
            sizes = [axis if isinstance(axis, int) else 12 for axis in output.axes[1:]]
            rows[name] = generator.standard_normal((samples, *sizes)).astype(np.float32)
        return rows


@dataclass(frozen=True)
class Case:
    """One kind of recipe."""

    task: str
    network: str
    losses: tuple[AnyLoss, ...] = ()
    """Of a teacher's answers; none: the labels alone are learned."""
    options: Mapping[str, Any] = field(default_factory=dict)
    distiller: DistillerSettings | None = None
    share: float = 0.5

    def make_objective(self, answers: Any) -> Objective:
        return DistillationObjective(self.share, self.losses, answers, self.distiller) if self.losses else LabelObjective()


def make_digits(*losses: AnyLoss, **given: Any) -> Case:
    return Case(smoke.DIGITS, smoke.RESIDUAL, losses, NARROW, **given)


CASES = {
    "labels": make_digits(),
    "images": make_digits(Kd(), Kd(standardize=True), Dkd(), Dist(), LogitPearson(), Mse()),
    "texts": Case(WORDS, TEXT, (Kd(), Dkd())),
    "multilabel": Case(ATTRIBUTES, smoke.RESIDUAL, (BinaryKd(), LabelPearson(), Mse()), {"width": 2, "classes": 6}),
    "positions": Case(PIXELS, DENSE, (Kd(), Dkd(), LogitPearson()), NARROW),
    "embeddings": Case(VECTORS, BAG, (Cosine(), Relations(distance=1, angle=1), Mse()), share=1),
    "distiller": make_digits(Kd(), distiller=DistillerSettings(hidden=4)),
    "distiller in two steps": make_digits(Kd(), distiller=DistillerSettings(hidden=4, pretraining=0.5)),
}
"""Without those that need a teacher of layers or of tokens."""


@contextmanager
def open_training(case: Case, objective: Objective, module: nn.Module | None = None) -> Iterator[tuple[Training, PlayedGpu]]:
    """Open a training on the GPU that the CPU plays."""
    settings = Teach(
        task=case.task, network=case.network, batch=8, epochs=1, gradient_clip=1.0, ema=0.9, device="cpu", precision="fp32"
    )
    task = load_task(case.task)
    torch.manual_seed(0)
    module = module or build_network(case.network, case.options)
    with open_compute(settings, module, "student", 8) as compute, play_gpu() as gpu:
        for state in (PartialState(), compute.accelerator.state):
            state.device = PLAYED
        module = module.to(PLAYED)
        auxiliary = objective.build_auxiliary(task, module)
        yield Training(settings, task, module, objective, RecordedViews(0, 1), "student", auxiliary, compute), gpu


def list_waits(training: Training, gpu: PlayedGpu) -> list[str]:
    """Return what the host waits for in the second step, after all that is made once."""
    batches = training.plan.plan_epoch(1, 0).iterate_view(0)
    for step, batch in enumerate(islice(batches, 2)):
        gpu.waits.clear()
        training.set_rate(training.objective.set_progress(0.9))
        training.train_step(batch, 0, 1, step)
    return gpu.waits


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_waits_for_nothing(case: Case) -> None:
    answers = Drawn(load_task(case.task))
    with open_training(case, case.make_objective(answers)) as (training, gpu):
        assert list_waits(training, gpu) == []
        assert np.isfinite(training.check_loss(1))
        assert len(gpu.waits) == 1  # one look at all losses


def test_a_step_of_the_pretraining_waits_for_nothing() -> None:
    case = CASES["distiller in two steps"]
    objective = case.make_objective(Drawn(load_task(case.task)))
    with open_training(case, objective) as (training, gpu):
        batch = next(training.plan.plan_epoch(1, 0).iterate_view(0))
        objective.set_progress(0.1)
        gpu.waits.clear()
        training.train_step(batch, 0, 1, 0)
        assert gpu.waits == []
        assert objective.pop_means().keys() == {"distiller_score"}


LAYERS: Mapping[str, tuple[Case, list[FeatureLossSettings]]] = {
    "images": (make_digits(), [kind(student=STAGE, teacher=STAGE) for kind in (Rkd, Similarity, Attention, Hint)]),
    "texts": (
        Case(WORDS, TEXT),
        [
            HiddenStates(student="blocks.0", teacher="blocks.0"),
            AttentionRelations(student="blocks.0.attention.inside", teacher="blocks.0.attention.inside", heads=2),
        ],
    ),
}


@pytest.mark.parametrize(("case", "losses"), LAYERS.values(), ids=LAYERS)
def test_a_live_teacher_is_not_waited_for(case: Case, losses: list[Any], tmp_path: Path) -> None:
    teacher = smoke.weights(tmp_path / "teacher", case.network, case.task, **case.options)
    answers: Any = Drawn(load_task(case.task))
    objective = DistillationObjective(0.5, [Kd(), *losses], answers, teacher=teacher)
    with open_training(case, objective) as (training, gpu):
        assert list_waits(training, gpu) == []


class DrawnTokens(Drawn):
    """Paths that are drawn, and the likeliest tokens along them."""

    def open_learned_rows(self, view: int) -> Mapping[str, Any]:
        samples = sequences.SAMPLES["train"] + sequences.SAMPLES["transfer"]
        paths = sequences.reverse_sources(sequences.draw_different_sources(samples))
        return {"words": paths, f"words{TOP}": self}

    def read_top(self, indices: Integers) -> TopAnswers:
        generator, shape = np.random.default_rng(0), (len(indices), sequences.LONGEST)
        values = generator.standard_normal((*shape, 3)).astype(np.float32) - 4
        places = np.broadcast_to(np.arange(3), values.shape)
        return TopAnswers(values, places, np.full(shape, -5, np.float32), sequences.SIZE)


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_step_of_tokens_waits_for_nothing(share: float) -> None:
    case = Case(sequences.REVERSAL, sequences.TRANSLATOR, options=sequences.OPTIONS)
    answers: Any = DrawnTokens(load_task(case.task))
    objective = SequenceObjective(share, (WordLoss(temperature=2), SequenceLoss(), TopPearsonLoss()), answers)
    with open_training(case, objective) as (training, gpu):
        assert list_waits(training, gpu) == []


def test_the_losses_are_read_together_and_the_first_bad_one_is_found() -> None:
    reads: list[tuple[int, int | None, int]] = []
    with play_gpu() as gpu:
        watch = LossWatch(PLAYED)
        for step in range(2 * READ_STEPS):
            watch.read_at = float("inf")  # no matter how slow this machine is
            watch.add(torch.tensor(float("nan") if step == READ_STEPS + 3 else 1.0).to(PLAYED))
            gpu.waits.clear()
            if watch.is_due():
                reads.append((step, watch.read()[1], len(gpu.waits)))
    assert reads == [(READ_STEPS - 1, None, 1), (2 * READ_STEPS - 1, READ_STEPS - 4, 1)]
