"""The loop that trains every network here: teacher, student and control differ in their objective and their views only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from attar.engines.runtimes.torch import build_network, check_network, make_predictor, select_device
from attar.models.checks import task as task_check
from attar.models.task import load_task
from attar.pipeline import team
from attar.pipeline.core.stage import Facts, scratch
from attar.stages.artifacts import Answers
from attar.stages.learning import checkpoint
from attar.stages.learning.compute import computing
from attar.stages.learning.objective import Objective
from attar.stages.learning.settings import TrainingSettings
from attar.stages.learning.training import Training, Views
from attar.stages.learning.validation import Validation

FRESH = 1 << 20  # the views of a training without records start here, so that none of them is a recorded one


@dataclass(frozen=True)
class Fresh:
    """A view that was never seen before, every epoch."""

    seed: int

    def number(self, epoch: int) -> int:
        return FRESH + epoch


@dataclass(frozen=True)
class Recorded:
    """The recorded views in turn."""

    seed: int
    count: int

    def number(self, epoch: int) -> int:
        return epoch % self.count


def fit(
    settings: TrainingSettings,
    out: Path,
    what: str,
    objective: Objective,
    seen: Views,
    answers: Answers | None = None,
    module: Callable[[], nn.Module] | None = None,
) -> Facts:
    """Train, keep ``weights.safetensors`` in ``out``, return the facts of ``Weights``.

    ``module`` makes what is trained, by default ``settings.network`` with its options. The same settings give the same bytes on
    the same CPU, interrupted or not: each step is seeded by (seed, epoch, step). Raises StageError for a task or a network that
    cannot be trained, for what this machine cannot do, and when the loss diverges.
    """
    task = load_task(settings.task)
    task_check.check(task)
    objective.prepare(task)
    validation = Validation(task, answers)
    device = select_device(settings.device)
    batch = min(settings.batch, len(task.split("train")) + len(objective.transfer(task) or ()))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        built = module() if module else build_network(settings.network, settings.options)
        with computing(settings, built, what, batch) as compute:
            built.to(compute.device)
            check_network(built, task)
            beside = objective.beside(task, built, compute.autocast)
            training = Training(settings, task, built, objective, seen, what, beside, compute)
            training.run(validation, scratch(out) / "checkpoint.safetensors")
    oacc = validation.oacc()
    return finish(out, built, settings, training.facts() | ({} if oacc is None else {"oacc": oacc}))


def adopt(settings: TrainingSettings, module: nn.Module, out: Path) -> Facts:
    """A network with weights from elsewhere: checked against the task, measured on validation, kept."""
    task = load_task(settings.task)
    task_check.check(task)
    check_network(module, task)
    measured = Validation(task).of(make_predictor(module, task), "teacher")
    return finish(out, module, settings, {"score": measured["score"], "history": [], "best_epoch": 0, "precision": "fp32"})


def finish(out: Path, module: nn.Module, settings: TrainingSettings, found: dict[str, Any]) -> Facts:
    if team.current().leads:
        save_file(checkpoint.copied(module.state_dict()), out / "weights.safetensors")
    return {
        "task": settings.task,
        "network": settings.network,
        "options": dict(settings.options),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "device": next(module.parameters()).device.type,
        **found,
    }
