"""One training of every kind of recipe, whose teacher's answers are drawn: each loss that a recipe can name is in one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import PartialState
from pydantic import TypeAdapter

from attar.engines.runtimes.torch import build_network
from attar.models.features import name_features
from attar.models.generation import Integers, find_decoding
from attar.models.task import Array, Task, load_task
from attar.models.top_answers import TOP, TopAnswers
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.feature_loss_settings import AnyLoss, FeatureLossSettings
from attar.stages.distill.objective import DistillationObjective
from attar.stages.distill.sequence_objective import SequenceObjective
from attar.stages.learning.compute import open_compute
from attar.stages.learning.loop import RecordedViews
from attar.stages.learning.objective import LabelObjective, Objective
from attar.stages.learning.training import Training
from attar.stages.teach.stage import Teach
from tests.support.tasks import sequences, smoke

CPU = torch.device("cpu")
WORDS, TEXT = "tests.support.tasks.ragged_words:RaggedWords", "tests.support.tasks.ragged_words:transformer"
PIXELS, DENSE = "attar.models.tasks.pixels:Pixels", "attar.models.networks.pixels:dilated"
VECTORS, BAG = "tests.support.tasks.embedding_task:EmbeddedTexts", "tests.support.tasks.embedding_task:student"
ATTRIBUTES = "attar.models.tasks.attributes:Attributes"
NARROW = {"width": 2}
STAGE, ROWS, QUERIES = "stages.1", "head.1", "blocks.0.attention.inside"


LOSSES: TypeAdapter[tuple[AnyLoss, ...]] = TypeAdapter(tuple[AnyLoss, ...])
Written = str | Mapping[str, Any]
"""A loss as a recipe has it, or its kind alone."""


def read_losses(*written: Written) -> tuple[AnyLoss, ...]:
    return LOSSES.validate_python([{"kind": each} if isinstance(each, str) else each for each in written])


def compare_layers(kind: str, layer: str, **settings: Any) -> Written:
    """Return a loss of one layer, which both networks call so."""
    return {"kind": kind, "student": layer, "teacher": layer, **settings}


@dataclass
class DrawnAnswers:
    """Answers that are drawn: rows of every sample, by output, and for tokens the likeliest ones along a path."""

    task: Task
    features: Mapping[str, int]
    """The width of each of the teacher's layers that is stored."""
    facts: dict[str, Any] = field(default_factory=lambda: {"views": 1, "along": "teacher"})
    why_opaque: None = None

    def open_learned_rows(self, view: int) -> Mapping[str, Any]:
        samples = len(self.task.split("train")) + (len(self.task.split("transfer")) if self.task.transfer else 0)
        if decoding := find_decoding(self.task):
            paths = sequences.reverse_sources(sequences.draw_different_sources(samples))
            return {decoding.output: paths, decoding.output + TOP: self}
        generator = np.random.default_rng(view)
        rows: dict[str, Array] = {}
        for name, output in self.task.outputs.items():
            sizes = [axis if isinstance(axis, int) else 12 for axis in output.axes[1:]]
            rows[name] = generator.standard_normal((samples, *sizes)).astype(np.float32)
        for layer, width in self.features.items():
            rows[name_features(layer)] = generator.standard_normal((samples, width)).astype(np.float32)
        return rows

    def read_top(self, indices: Integers) -> TopAnswers:
        shape = (len(indices), sequences.LONGEST)
        values = np.random.default_rng(0).standard_normal((*shape, 3)).astype(np.float32) - 4
        places = np.broadcast_to(np.arange(3), values.shape)
        return TopAnswers(values, places, np.full(shape, -5, np.float32), sequences.SIZE)


@dataclass(frozen=True)
class TrainingCase:
    """One kind of recipe."""

    task: str
    network: str
    losses: tuple[AnyLoss, ...] = ()
    """Of a teacher's answers; none: the labels alone are learned."""
    options: Mapping[str, Any] = field(default_factory=dict)
    distiller: DistillerSettings | None = None
    share: float = 0.5
    stored: Mapping[str, int] = field(default_factory=dict)
    """Layers whose features are stored beside the answers, and their widths."""
    solves: int = 0
    """Systems of equations in a step: torch waits to tell whether one has no solution."""

    def make_objective(self, folder: Path) -> Objective:
        """Return what is minimized. A live teacher is stored in ``folder``."""
        task = load_task(self.task)
        drawn: Any = DrawnAnswers(task, self.stored)
        if not self.losses:
            return LabelObjective()
        if find_decoding(task):
            return SequenceObjective(self.share, self.losses, drawn)
        is_live = not self.stored and any(isinstance(loss, FeatureLossSettings) for loss in self.losses)
        teacher = smoke.weights(folder / "teacher", self.network, self.task, **self.options) if is_live else None
        return DistillationObjective(self.share, self.losses, drawn, self.distiller, teacher=teacher)


def make_digits(*losses: Written, **given: Any) -> TrainingCase:
    return TrainingCase(smoke.DIGITS, smoke.RESIDUAL, read_losses(*losses), NARROW, **given)


def make_words(*losses: Written) -> TrainingCase:
    return TrainingCase(WORDS, TEXT, read_losses(*losses))


def make_tokens(*losses: Written) -> TrainingCase:
    return TrainingCase(sequences.REVERSAL, sequences.TRANSLATOR, read_losses(*losses), sequences.OPTIONS)


SIX_LABELS = {"width": 2, "classes": 6}
CASES = {
    "labels": make_digits(),
    "images": make_digits("kd", {"kind": "kd", "standardize": True}, "dkd", "dist", "logit_pearson", "mse"),
    "texts": make_words("kd", "dkd"),
    "tokens": make_tokens({"kind": "word", "temperature": 2}, "sequence", "top_pearson"),
    "tokens of labels": make_tokens(),
    "multilabel": TrainingCase(ATTRIBUTES, smoke.RESIDUAL, read_losses("binary_kd", "label_pearson", "mse"), SIX_LABELS),
    "positions": TrainingCase(PIXELS, DENSE, read_losses("kd", "dkd", "logit_pearson"), NARROW),
    "embeddings": TrainingCase(
        VECTORS, BAG, read_losses("cosine", {"kind": "relations", "distance": 1, "angle": 1}, "mse"), share=1
    ),
    "distiller": make_digits("kd", distiller=DistillerSettings(hidden=4)),
    "distiller in two steps": make_digits("kd", distiller=DistillerSettings(hidden=4, pretraining=0.5)),
    "features of images": make_digits(*(compare_layers(kind, STAGE) for kind in ("rkd", "similarity", "attention", "hint"))),
    "stored features": make_digits(
        compare_layers("simkd", ROWS),
        compare_layers("vkd", ROWS),
        compare_layers("vkd", ROWS, normalize="whiten"),
        stored={ROWS: 8},
        solves=2,
    ),
    "features of texts": make_words(
        compare_layers("hidden_states", "blocks.0"), compare_layers("attention_relations", QUERIES, heads=2)
    ),
}


@contextmanager
def open_training(case: TrainingCase, folder: Path, device: torch.device) -> Iterator[Training]:
    """Open a training on a device, whatever accelerate would choose."""
    settings = Teach(task=case.task, network=case.network, batch=8, epochs=1, gradient_clip=1.0, ema=0.9, precision="fp32")
    task, objective = load_task(case.task), case.make_objective(folder)
    torch.manual_seed(0)
    module = build_network(case.network, case.options)
    with open_compute(settings, module, "student", 8) as compute:
        for state in (PartialState(), compute.accelerator.state):
            state.device = device
        module = module.to(device)
        auxiliary = objective.build_auxiliary(task, module)
        yield Training(settings, task, module, objective, RecordedViews(0, 1), "student", auxiliary, compute)


def take_step(training: Training, number: int, progress: float = 0.9) -> None:
    """Take one step of the first epoch."""
    batches = training.plan.plan_epoch(1, number).iterate_view(0)
    training.set_rate(training.objective.set_progress(progress))
    training.train_step(next(batches), 0, 1, number)
