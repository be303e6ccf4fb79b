"""The loop that trains every network here: teacher, student and control differ in their objective and their views only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attar.models import task_check, views
from attar.models.task import Task, load_task
from attar.models.views import Seen
from attar.pipeline.errors import StageError
from attar.pipeline.progress import advance
from attar.pipeline.stage import Facts, scratch
from attar.stages.artifacts import Answers
from attar.stages.distillation import checkpoint
from attar.stages.distillation.objective import Objective
from attar.stages.distillation.schedule import SCHEDULES
from attar.stages.distillation.validation import Validation
from attar.stages.learn import Learn
from attar.stages.runtimes.torch import build, call, channels_last, device_of, load, probe

FRESH = 1 << 20  # the views of a training without records start here, so that none of them is a recorded one


class Views(Protocol):
    @property
    def seed(self) -> int: ...

    def number(self, epoch: int) -> int:
        """The view that this epoch reads."""


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
    settings: Learn,
    out: Path,
    what: str,
    objective: Objective,
    seen: Views,
    answers: Answers | None = None,
    *,
    module: Callable[[], nn.Module] | None = None,
) -> Facts:
    """Train, keep ``weights.safetensors`` in ``out``, return the facts of ``Weights``.

    ``module`` makes what is trained; by default it is the network that the settings name.

    The same settings give the same bytes on the same CPU, interrupted or not: each epoch is seeded by (seed, epoch) and
    ends with a checkpoint. Raises StageError for a task or a network that cannot be trained, and when the loss diverges.
    """
    task = load_task(settings.task)
    task_check.check(task)
    objective.prepare(task)
    validation = Validation(task, answers)
    device = device_of(settings.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        made = (module() if module else build(settings.network, settings.options)).to(device)
        probe(made, task)
        beside = objective.beside(task, made)
        training = Training(settings, task, made, objective, seen, what, beside)
        training.run(validation, scratch(out) / "checkpoint.safetensors")
    oacc = validation.oacc()
    return finish(out, made, settings, training.facts() | ({} if oacc is None else {"oacc": oacc}))


def adopt(settings: Learn, file: Path, out: Path) -> Facts:
    """Weights from elsewhere: checked against the network and the task, measured on validation, kept."""
    task = load_task(settings.task)
    task_check.check(task)
    module = load(file, settings.network, settings.options)
    probe(module, task)
    measured = Validation(task)(module)
    return finish(out, module, settings, {"score": measured["score"], "history": [], "best_epoch": 0, "precision": "fp32"})


def finish(out: Path, module: nn.Module, settings: Learn, found: dict[str, Any]) -> Facts:
    save_file(checkpoint.copied(module.state_dict()), out / "weights.safetensors")
    return {
        "task": settings.task,
        "network": settings.network,
        "options": dict(settings.options),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "device": next(module.parameters()).device.type,
        **found,
    }


@dataclass
class Training:
    """One training, epoch by epoch, and all that a checkpoint must hold to go on with it."""

    settings: Learn
    task: Task
    module: nn.Module
    objective: Objective
    views: Views
    what: str
    beside: nn.Module
    """What is trained beside the module and is not kept."""
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        channels_last(self.module)
        self.trained = [*self.module.parameters(), *self.beside.parameters()]
        self.optimizer = torch.optim.AdamW(self.trained, weight_decay=self.settings.weight_decay, fused=True)
        self.average = averaged(self.module, self.settings.ema)
        self.device = next(self.module.parameters()).device.type
        self.bf16 = self.settings.precision == "bf16" or (
            self.settings.precision == "auto" and bf16_pays(self.module, self.device)
        )
        self.train = self.task.split("train")
        self.steps = max(1, len(self.train) // self.settings.batch)

    def run(self, validation: Validation, file: Path) -> None:
        """To the end, from the checkpoint where there is one; the module then holds the weights to keep."""
        if file.exists():
            self.resume(file)
        while len(self.history) < self.settings.epochs and not self.stale():
            epoch = len(self.history) + 1
            loss = self.epoch(epoch)
            self.record({"epoch": epoch, "loss": round(loss, 6), **validation(self.kept), **self.objective.logged()})
            self.save(file)
        self.module.load_state_dict(self.best)

    @property
    def kept(self) -> nn.Module:
        """What is measured and kept: the module, or the average of its weights."""
        return self.module if self.average is None else self.average.module

    def stale(self) -> bool:
        patience = self.settings.patience
        return bool(patience) and len(self.history) - self.best_epoch >= patience

    def epoch(self, epoch: int) -> float:
        """One pass over one view. Returns the mean loss."""
        torch.manual_seed(self.settings.seed * 100_003 + epoch)
        self.module.train()
        order = np.random.default_rng((self.settings.seed, epoch))
        view = self.views.number(epoch - 1)
        total, note = 0.0, self.note(epoch)
        passed = (epoch - 1) * self.steps
        batches = views.epoch(self.task, self.train, self.settings.batch, order, seed=self.views.seed, view=view)
        for step, seen in enumerate(batches):
            self.set_rate((passed + step) / (self.steps * self.settings.epochs))
            total += self.step(seen, view, f"step {step + 1} of epoch {epoch}")
            advance(self.what, passed + step + 1, self.steps * self.settings.epochs, note)
        return total / self.steps

    def set_rate(self, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * SCHEDULES[self.settings.schedule](progress)

    def step(self, seen: Seen, view: int, where: str) -> float:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            outputs = call(self.module, self.task, seen.inputs)
        loss = self.objective(self.task, {name: made.float() for name, made in outputs.items()}, seen, view)
        value = loss.item()
        if not math.isfinite(value):
            raise StageError(
                f"the loss of the {self.what} is {value} at {where}; lower learning_rate = {self.settings.learning_rate}"
                + (", or set precision = 'fp32'" if self.bf16 else "")
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate Tensor.backward
        if self.settings.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.trained, self.settings.gradient_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        return value

    def record(self, entry: dict[str, float]) -> None:
        """Without patience the last epoch is the best: its rate is the lowest, and nothing is chosen by chance."""
        better = not self.history or entry["score"] > self.history[self.best_epoch - 1]["score"]
        self.history.append(entry)
        if better or not self.settings.patience:
            self.best_epoch = len(self.history)
            self.best = checkpoint.copied(self.kept.state_dict())

    def note(self, epoch: int) -> str:
        """``epoch 3/8 loss 0.31 accuracy 0.90 corr 0.97``: the numbers are those of the epoch before."""
        words = [f"epoch {epoch}/{self.settings.epochs}"]
        names = {"loss": "loss", "score": self.task.score_name, "correlation": "corr"}
        if self.history:
            last = self.history[-1]
            words += [f"{word} {last[name]:.3f}" for name, word in names.items() if name in last]
        return " ".join(words)

    def save(self, file: Path) -> None:
        state = {"history": self.history, "best_epoch": self.best_epoch}
        groups = {"module": self.module.state_dict(), "best": self.best, "beside": self.beside.state_dict()}
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        checkpoint.save(file, groups, self.optimizer, json.dumps(state))

    def resume(self, file: Path) -> None:
        tensors, text = checkpoint.load(file, self.optimizer)
        state = json.loads(text)
        self.history, self.best_epoch, self.best = state["history"], state["best_epoch"], tensors["best"]
        self.module.load_state_dict(tensors["module"])
        self.beside.load_state_dict(tensors.get("beside", {}))
        if self.average is not None:
            self.average.load_state_dict(tensors["average"])

    def facts(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.history[self.best_epoch - 1].items() if name not in ("epoch", "loss")}
        precision = "bf16" if self.bf16 else "fp32"
        return {**kept, "history": self.history, "best_epoch": self.best_epoch, "precision": precision}


def averaged(module: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of the weights and of the batch statistics, from the first step on; None without decay."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return AveragedModel(module, multi_avg_fn=average, use_buffers=True)


def bf16_pays(module: nn.Module, device: str = "cpu") -> bool:
    """Whether this device multiplies bf16 natively and, on a CPU, whether the network's work is dense convolutions.

    Measured on an AVX512-BF16 CPU: residual networks train 1.1 to 2 times faster, depthwise separable ones 1.5 times slower.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return bool(convolutions) and all(layer.groups == 1 for layer in convolutions)
