"""Train a network. Teacher, student and control differ only in their objective and their views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from attar.engines.runtimes.torch import build_network, check_network, open_network, select_device
from attar.models.checks import task as task_check
from attar.models.mixing import Mixing, check_mixing
from attar.models.task import load_task
from attar.pipeline import team
from attar.pipeline.core.stage import Facts, open_scratch
from attar.stages.artifacts import Answers
from attar.stages.learning import checkpoint
from attar.stages.learning.batch_norms import synchronize_norms
from attar.stages.learning.batch_plan import ViewSchedule
from attar.stages.learning.compute import open_compute
from attar.stages.learning.objective import Objective
from attar.stages.learning.recomputation import recompute_blocks
from attar.stages.learning.settings import TrainingSettings
from attar.stages.learning.training import Training
from attar.stages.learning.validation import Validation

FIRST_FRESH_VIEW = 1 << 20
"""The number of the first fresh view. Recorded views have smaller numbers."""


@dataclass(frozen=True)
class FreshViews:
    """A new view in every epoch."""

    seed: int
    mixing: None = None

    def choose_view(self, epoch: int) -> int:
        return FIRST_FRESH_VIEW + epoch


@dataclass(frozen=True)
class RecordedViews:
    """The recorded views in rotation."""

    seed: int
    count: int
    mixing: Mixing | None = None

    def choose_view(self, epoch: int) -> int:
        return epoch % self.count


def train_network(
    settings: TrainingSettings,
    out: Path,
    network_name: str,
    objective: Objective,
    views: ViewSchedule,
    answers: Answers | None = None,
    module: Callable[[], nn.Module] | None = None,
) -> Facts:
    """Train a network, write its weights to ``out``, and return the facts of ``Weights``.

    ``module`` creates the network, by default ``settings.network`` with its options. The same
    settings give the same bytes on the same CPU, interrupted or not: each step is seeded by
    (seed, epoch, step). Raises StageError for a task or a network that cannot be trained, for
    settings that this machine cannot carry out, and when the loss diverges.
    """
    task = load_task(settings.task)
    task_check.check_task_once(task)
    objective.check_task(task)
    if views.mixing is not None:
        check_mixing(task, views.mixing)
    validation = Validation(task, answers)
    device = select_device(settings.device)
    batch = min(settings.batch, len(task.split("train")) + len(objective.find_transfer(task) or ()))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        built = module() if module else build_network(settings.network, settings.options)
        with open_compute(settings, built, network_name, batch) as compute:
            built = synchronize_norms(built, compute, settings.synchronize_norms)
            built = built.to(compute.accelerator.device)
            check_network(built, task)
            if settings.checkpointing:
                recompute_blocks(built)
            auxiliary = objective.build_auxiliary(task, built, compute.accelerator.autocast)
            parts = (task, built, objective, views, network_name, auxiliary, compute)
            training = Training(settings, *parts)
            training.run(validation, open_scratch(out) / "checkpoint.safetensors")
    facts = training.build_facts()
    oacc = validation.compute_oacc()
    if oacc is not None:
        facts = {**facts, "oacc": oacc}
    return save_network(out, built, settings, facts)


def adopt_network(settings: TrainingSettings, module: nn.Module, out: Path) -> Facts:
    """Check a trained network against the task, evaluate it on validation, and save it."""
    task = load_task(settings.task)
    task_check.check_task_once(task)
    check_network(module, task)
    with open_network(module, settings.task, device=settings.device) as predictor:
        device = select_device(settings.device).type
        scores = Validation(task).evaluate(predictor.graphs, "teacher", device)
    facts = {"score": scores["score"], "history": [], "best_epoch": 0, "precision": "fp32"}
    return save_network(out, module, settings, facts)


def save_network(out: Path, module: nn.Module, settings: TrainingSettings, facts: Facts) -> Facts:
    """Write the weights if this process leads, and return the facts of ``Weights``."""
    if team.get_team().leads:
        save_file(checkpoint.copy_tensors(module.state_dict()), out / "weights.safetensors")
    return {
        "task": settings.task,
        "network": settings.network,
        "options": dict(settings.options),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "device": next(module.parameters()).device.type,
        **facts,
    }
